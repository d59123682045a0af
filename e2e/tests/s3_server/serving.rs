//! What is served: objects, ranges, conditions, versions, uploads, plain HTTP.

use super::*;

#[tokio::test]
async fn an_object_comes_back_whole_and_in_ranges() {
    let (server, bytes) = with_object().await;
    let whole = get(&server, "/b/k", "").await;
    assert_eq!((whole.status, &whole.body), (200, &bytes));
    assert_eq!(whole.header("content-length"), Some("1000"));
    let part = get(&server, "/b/k", "Range: bytes=10-19\r\n").await;
    assert_eq!((part.status, &part.body[..]), (206, &bytes[10..20]));
    assert_eq!(part.header("content-range"), Some("bytes 10-19/1000"));
    let beyond = get(&server, "/b/k", "Range: bytes=1000-\r\n").await;
    assert_eq!(
        (beyond.status, beyond.code().as_str()),
        (416, "InvalidRange")
    );
    let head = send(&server, "HEAD /b/k", "", b"").await;
    assert_eq!(
        (head.status, head.body.len(), head.header("content-length")),
        (200, 0, Some("1000"))
    );
}

#[tokio::test]
async fn what_is_missing_is_named_as_s3_names_it() {
    let (server, _) = with_object().await;
    let key = get(&server, "/b/absent", "").await;
    assert_eq!((key.status, key.code().as_str()), (404, "NoSuchKey"));
    let bucket = get(&server, "/absent/k", "").await;
    assert_eq!(
        (bucket.status, bucket.code().as_str()),
        (404, "NoSuchBucket")
    );
    let list = get(&server, "/absent?list-type=2", "").await;
    assert_eq!((list.status, list.code().as_str()), (404, "NoSuchBucket"));
}

#[tokio::test]
async fn conditions_hold_or_refuse() {
    let (server, _) = with_object().await;
    let etag = server.etag("b", "k").unwrap();
    assert_eq!(
        get(&server, "/b/k", &format!("If-Match: {etag}\r\n"))
            .await
            .status,
        200
    );
    let stale = get(&server, "/b/k", "If-Match: \"no\"\r\n").await;
    assert_eq!(
        (stale.status, stale.code().as_str()),
        (412, "PreconditionFailed")
    );
    assert_eq!(
        get(&server, "/b/k", &format!("If-None-Match: {etag}\r\n"))
            .await
            .status,
        304
    );
    let date = get(&server, "/b/k", "")
        .await
        .header("last-modified")
        .unwrap()
        .to_owned();
    assert_eq!(
        get(&server, "/b/k", &format!("If-Unmodified-Since: {date}\r\n"))
            .await
            .status,
        200
    );
    server.replace("b", "k", "new");
    assert_eq!(
        get(&server, "/b/k", &format!("If-Unmodified-Since: {date}\r\n"))
            .await
            .status,
        412
    );
    assert_eq!(
        get(&server, "/b/k", &format!("If-Match: {etag}\r\n"))
            .await
            .status,
        412
    );
}

#[tokio::test]
async fn old_versions_stay_readable() {
    let server = S3Server::builder().versioned().start().await.unwrap();
    server.put("b", "k", "one");
    let first = server.version("b", "k").unwrap();
    server.put("b", "k", "two");
    assert_eq!(
        get(&server, &format!("/b/k?versionId={first}"), "")
            .await
            .text(),
        "one"
    );
    assert_eq!(get(&server, "/b/k", "").await.text(), "two");
    assert_eq!(
        get(&server, "/b/k?versionId=none", "").await.code(),
        "NoSuchVersion"
    );
}

#[tokio::test]
async fn what_is_put_over_http_can_be_read_and_deleted() {
    let server = start().await;
    assert_eq!(
        send(&server, "PUT /b/x", "", b"data").await.code(),
        "NoSuchBucket"
    );
    assert_eq!(send(&server, "PUT /b", "", b"").await.status, 200);
    let put = send(&server, "PUT /b/x%20y", "", b"data").await;
    assert_eq!(
        put.header("etag"),
        Some("\"8d777f385d3dfec8815d20f7496026dc\"")
    );
    assert_eq!(get(&server, "/b/x%20y", "").await.text(), "data");
    let streamed = b"4;chunk-signature=00\r\nabcd\r\n2;chunk-signature=00\r\nef\r\n0;chunk-signature=00\r\n\r\n";
    let header = "x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\r\n";
    assert_eq!(
        send(&server, "PUT /b/s", header, streamed).await.status,
        200
    );
    assert_eq!(get(&server, "/b/s", "").await.text(), "abcdef");
    assert_eq!(send(&server, "DELETE /b/s", "", b"").await.status, 204);
    assert_eq!(get(&server, "/b/s", "").await.status, 404);
}

#[tokio::test]
async fn the_bucket_may_be_in_the_host_name() {
    let (server, bytes) = with_object().await;
    let reply = get(&server, "/k", "Host: b.localhost:80\r\n").await;
    assert_eq!((reply.status, reply.body), (200, bytes));
}

#[tokio::test]
async fn a_generated_model_is_served_byte_for_byte() {
    let model = Model::generate(&ModelSpec {
        seed: 5,
        size: 5_000_000,
        shards: 2,
        small_files: 3,
    });
    let held = S3Server::builder()
        .hold_in_memory(1 << 30)
        .start()
        .await
        .unwrap();
    let mut tags = Vec::new();
    for server in [start().await, held] {
        server.put_tree("b", "m/", &model);
        for file in model.files() {
            let reply = get(&server, &format!("/b/m/{}", file.path()), "").await;
            assert_eq!(blake3::hash(&reply.body), file.digest().unwrap());
            tags.push(reply.header("etag").unwrap().to_owned());
        }
    }
    let (plain, held) = tags.split_at(model.len());
    assert_eq!(
        plain, held,
        "where the bytes are held does not change the tag"
    );
}

#[tokio::test]
async fn connections_are_kept_and_pipelined_requests_answered() {
    let (server, _) = with_object().await;
    let mut tcp = TcpStream::connect(server.address()).await.unwrap();
    let one = "GET /b/k HTTP/1.1\r\nHost: h\r\nRange: bytes=0-0\r\n";
    tcp.write_all(format!("{one}\r\n{one}Connection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let both = read(&mut tcp).await;
    assert_eq!(
        both.text().matches("206 Partial").count() + both.head.matches("206 Partial").count(),
        2
    );
    assert_eq!(
        (server.wire().accepted(), server.wire().requests(Op::Get)),
        (1, 2)
    );
}

#[tokio::test]
async fn a_plain_http_server_has_files_and_no_listing() {
    let server = S3Server::builder().plain_http().start().await.unwrap();
    server.put("dir", "a.bin", "0123456789");
    let reply = get(&server, "/dir/a.bin", "Range: bytes=3-4\r\n").await;
    assert_eq!((reply.status, reply.text().as_str()), (206, "34"));
    assert!(reply.header("etag").is_some() && reply.header("x-amz-request-id").is_none());
    assert_eq!(get(&server, "/dir/?list-type=2", "").await.status, 404);
}

#[tokio::test]
async fn nothing_is_left_after_shutdown_or_drop() {
    let server = start().await;
    let (address, wire) = (server.address(), server.wire());
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /b HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 100]).await.unwrap() > 0);
    assert_eq!(wire.open_connections(), 1);
    server.shutdown().await;
    assert_eq!(wire.open_connections(), 0);
    assert!(TcpStream::connect(address).await.is_err());
}
