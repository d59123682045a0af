"""Downloads one file with hf_transfer: ENDPOINT BUCKET KEYS TARGET."""

import sys
from pathlib import Path

import hf_transfer

endpoint, bucket, keys, target = sys.argv[1:5]
for line in Path(keys).read_text().splitlines():
    _, key = line.split(" ", 1)
    path = Path(target) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    hf_transfer.download(url=f"{endpoint}/{bucket}/{key}", filename=str(path), max_files=16, chunk_size=16 << 20, parallel_failures=3, max_retries=5)
