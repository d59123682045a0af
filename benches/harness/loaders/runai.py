"""Loads with the Run:ai streamer, from files or, for `s3://BUCKET`, from the endpoint in AWS_ENDPOINT_URL."""

import boto3  # the streamer lists and authenticates with it
import runai_model_streamer_s3  # noqa: F401
from runai_model_streamer import SafetensorsStreamer
from serve import DEVICE, files, serve, words


def load(path: str) -> int:
    total = 0
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(objects(path) if path.startswith("s3://") else files(path), device=DEVICE)
        for _, tensor in streamer.get_tensors():
            total += words(tensor)
    return total


def objects(path: str) -> list[str]:
    bucket = path.removeprefix("s3://").rstrip("/")
    found = boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    return [f"s3://{bucket}/{it['Key']}" for it in found if it["Key"].endswith(".safetensors")]


serve(load)
