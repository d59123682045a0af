"""Downloads with boto3: ENDPOINT BUCKET KEYS TARGET."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

endpoint, bucket, keys, target = sys.argv[1:5]
client = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}, max_pool_connections=64))
transfer = TransferConfig(max_concurrency=16, multipart_chunksize=16 << 20)


def fetch(line: str) -> None:
    _, key = line.split(" ", 1)
    path = Path(target) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    client.download_file(bucket, key, str(path), Config=transfer)


with ThreadPoolExecutor(8) as pool:
    list(pool.map(fetch, Path(keys).read_text().splitlines()))
