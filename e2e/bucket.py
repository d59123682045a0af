"""Moves files between a directory and a bucket with the cloud's own client library.

    bucket.py ping ENV
    bucket.py put  ENV BUCKET PREFIX DIR
    bucket.py get  ENV BUCKET PREFIX DIR
    bucket.py policy ENV BUCKET POLICY         S3 alone: POLICY is JSON; empty, the bucket has none any more

ENV is the file that `servers.sh start` writes. The uploads are independent of Tonnage's own code: these
clients are the oracle for what a real user's tools would have stored.
"""

import pathlib
import sys


class S3:
    def __init__(self, env):
        import boto3
        from botocore.config import Config

        self.client = boto3.client(
            "s3",
            endpoint_url=env["ENDPOINT"],
            region_name=env["REGION"],
            aws_access_key_id=env["ACCESS_KEY"],
            aws_secret_access_key=env["SECRET_KEY"],
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}, connect_timeout=2),
        )

    def ping(self):
        self.client.list_buckets()

    def create(self, bucket):
        if bucket not in [b["Name"] for b in self.client.list_buckets()["Buckets"]]:
            self.client.create_bucket(Bucket=bucket)

    def put(self, bucket, key, path):
        self.client.upload_file(str(path), bucket, key)

    def keys(self, bucket, prefix):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [o["Key"] for page in pages for o in page.get("Contents", [])]

    def get(self, bucket, key, path):
        self.client.download_file(bucket, key, str(path))

    def policy(self, bucket, policy):
        if policy:
            self.client.put_bucket_policy(Bucket=bucket, Policy=policy)
        else:
            self.client.delete_bucket_policy(Bucket=bucket)


class Gcs:
    def __init__(self, env):
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        self.client = storage.Client(
            project="tonnage", credentials=AnonymousCredentials(), client_options={"api_endpoint": env["ENDPOINT"]}
        )

    def ping(self):
        list(self.client.list_buckets(timeout=2, retry=None))

    def create(self, bucket):
        if not self.client.bucket(bucket).exists():
            self.client.create_bucket(bucket)

    def put(self, bucket, key, path):
        self.client.bucket(bucket).blob(key).upload_from_filename(str(path), content_type="application/octet-stream")

    def keys(self, bucket, prefix):
        return [b.name for b in self.client.list_blobs(bucket, prefix=prefix)]

    def get(self, bucket, key, path):
        self.client.bucket(bucket).blob(key).download_to_filename(str(path))


class Azure:
    def __init__(self, env):
        from azure.storage.blob import BlobServiceClient

        self.client = BlobServiceClient(
            env["ENDPOINT"],
            credential={"account_name": env["ACCESS_KEY"], "account_key": env["SECRET_KEY"]},
            retry_total=0,
            connection_timeout=2,
        )

    def ping(self):
        list(self.client.list_containers())

    def create(self, bucket):
        container = self.client.get_container_client(bucket)
        if not container.exists():
            container.create_container()

    def put(self, bucket, key, path):
        with path.open("rb") as file:
            self.client.get_blob_client(bucket, key).upload_blob(file, overwrite=True)

    def keys(self, bucket, prefix):
        return list(self.client.get_container_client(bucket).list_blob_names(name_starts_with=prefix))

    def get(self, bucket, key, path):
        with path.open("wb") as file:
            self.client.get_blob_client(bucket, key).download_blob().readinto(file)


def main(verb, env_file, bucket="", *rest):
    lines = pathlib.Path(env_file).read_text().splitlines()
    env = dict(line.split("=", 1) for line in lines)
    store = {"s3": S3, "gcs": Gcs, "azure": Azure}[env["KIND"]](env)
    if verb == "ping":
        store.ping()
    elif verb == "put":
        prefix, root = rest[0], pathlib.Path(rest[1])
        store.create(bucket)
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            store.put(bucket, f"{prefix}/{path.relative_to(root).as_posix()}", path)
    elif verb == "get":
        prefix, root = rest[0], pathlib.Path(rest[1])
        for key in store.keys(bucket, prefix + "/"):
            path = root / key.removeprefix(prefix + "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            store.get(bucket, key, path)
    elif verb == "policy":
        store.policy(bucket, rest[0])
    else:
        sys.exit(f"unknown verb: {verb}")


if __name__ == "__main__":
    if len(sys.argv) != {"ping": 3, "policy": 5}.get(sys.argv[1] if sys.argv[1:] else "", 6):
        sys.exit(__doc__)
    main(*sys.argv[1:])
