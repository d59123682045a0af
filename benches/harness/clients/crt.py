"""Downloads with awscrt: ENDPOINT BUCKET KEYS TARGET [--direct]. One event-loop thread per core, as its users tune it."""

import os
import sys
from pathlib import Path

from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, ClientTlsContext, DefaultHostResolver, EventLoopGroup, TlsConnectionOptions, TlsContextOptions
from awscrt.s3 import S3Client, S3FileIoOptions, S3RequestTlsMode, S3RequestType

endpoint, bucket, keys, target = sys.argv[1:5]
direct = "--direct" in sys.argv[5:]
scheme, host = endpoint.split("://")
loops = EventLoopGroup(os.cpu_count())
bootstrap = ClientBootstrap(loops, DefaultHostResolver(loops))
options = {}
mode = S3RequestTlsMode.DISABLED
if scheme == "https":
    tls = TlsContextOptions()
    tls.override_default_trust_store_from_path(None, os.environ["SSL_CERT_FILE"])
    connection = TlsConnectionOptions(ClientTlsContext(tls))
    options["tls_connection_options"] = connection
    mode = S3RequestTlsMode.ENABLED
client = S3Client(
    bootstrap=bootstrap,
    region="us-east-1",
    tls_mode=mode,
    credential_provider=AwsCredentialsProvider.new_static("bench", "bench"),
    throughput_target_gbps=50,
    part_size=16 << 20,
    **options,
)
files = {"fio_options": S3FileIoOptions(should_stream=True, disk_throughput_gbps=20.0, direct_io=True)} if direct else {}
running = []
for line in Path(keys).read_text().splitlines():
    size, key = line.split(" ", 1)
    path = Path(target) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    headers = HttpHeaders([("host", host)])
    request = HttpRequest("GET", f"/{bucket}/{key}", headers)
    running.append(client.make_request(type=S3RequestType.GET_OBJECT, request=request, recv_filepath=str(path), **files).finished_future)
    if len(running) >= 256:
        running.pop(0).result()
for future in running:
    future.result()
