"""Downloads with obstore (object_store for Python): ENDPOINT BUCKET KEYS TARGET. Ranges of 16 MiB on eight threads."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
from obstore.store import S3Store

endpoint, bucket, keys, target = sys.argv[1:5]
store = S3Store(bucket, endpoint=endpoint, region="us-east-1", skip_signature=True, client_options={"allow_http": True, "timeout": "600s"})
CHUNK = 16 << 20

with ThreadPoolExecutor(8) as pool:
    for line in Path(keys).read_text().splitlines():
        size, key = line.split(" ", 1)
        path = Path(target) / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            import os

            def piece(start: int, key=key, size=int(size), fd=file.fileno()) -> None:
                os.pwrite(fd, obstore.get_range(store, key, start=start, end=min(start + CHUNK, size)), start)

            list(pool.map(piece, range(0, int(size), CHUNK)))
