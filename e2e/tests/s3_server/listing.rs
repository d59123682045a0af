//! Pages, delimiters, encodings, and the lies a listing can tell.

use super::*;

async fn with_keys(keys: &[&str]) -> S3Server {
    let server = start().await;
    for key in keys {
        server.put("b", key, "x");
    }
    server
}

#[tokio::test]
async fn pages_cover_every_key_once_in_order() {
    let keys: Vec<String> = (0..25).map(|i| format!("p/{i:03}")).collect();
    let server = with_keys(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    server.put("b", "q/outside", "x");
    let (mut seen, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let reply = get(
            &server,
            &format!("/b?list-type=2&prefix=p%2F&max-keys=10{token}"),
            "",
        )
        .await;
        seen.extend(reply.keys());
        pages += 1;
        match between(&reply.text(), "<NextContinuationToken>", "</").first() {
            Some(next) => token = format!("&continuation-token={next}"),
            None => break,
        }
    }
    assert_eq!((seen, pages), (keys, 3));
}

#[tokio::test]
async fn a_page_that_ends_with_the_keys_is_the_last() {
    let server = with_keys(&["a", "b"]).await;
    let reply = get(&server, "/b?list-type=2&max-keys=2", "").await;
    assert!(reply.text().contains("<IsTruncated>false"));
    let reply = get(&server, "/b?list-type=2&start-after=a", "").await;
    assert_eq!(reply.keys(), ["b"]);
}

#[tokio::test]
async fn a_delimiter_folds_common_prefixes() {
    let server = with_keys(&["a", "d/1", "d/2", "e/1", "f"]).await;
    let reply = get(&server, "/b?list-type=2&delimiter=/", "").await;
    assert_eq!(reply.keys(), ["a", "f"]);
    assert_eq!(
        between(&reply.text(), "<CommonPrefixes><Prefix>", "</"),
        ["d/", "e/"]
    );
    let reply = get(&server, "/b?list-type=2&delimiter=/&max-keys=2", "").await;
    let next = between(&reply.text(), "<NextContinuationToken>", "</")[0].clone();
    let reply = get(
        &server,
        &format!("/b?list-type=2&delimiter=/&continuation-token={next}"),
        "",
    )
    .await;
    assert_eq!(reply.keys(), ["f"]);
    assert_eq!(
        between(&reply.text(), "<CommonPrefixes><Prefix>", "</"),
        ["e/"]
    );
}

#[tokio::test]
async fn odd_keys_are_url_encoded_or_escaped() {
    let server = with_keys(&["a b+c&d<é\u{1}"]).await;
    server.put("b", b"raw\xff", "x");
    let reply = get(&server, "/b?list-type=2&encoding-type=url", "").await;
    assert_eq!(reply.keys(), ["a+b%2Bc%26d%3C%C3%A9%01", "raw%FF"]);
    let reply = get(&server, "/b?list-type=2", "").await;
    assert_eq!(reply.keys()[0], "a b+c&amp;d&lt;é&#x1;");
    assert!(reply.body.windows(4).any(|w| w == b"raw\xff"));
    assert_eq!(get(&server, "/b/raw%FF", "").await.status, 200);
}

#[tokio::test]
async fn lies_are_told_as_scripted() {
    let server = with_keys(&["p/1", "p/2"]).await;
    let lie = async |lie: ListLie| {
        let handle = server.fault(Fault::new(Effect::List(lie)).on(Op::List).key("p/"));
        let reply = get(&server, "/b?list-type=2&prefix=p/", "").await;
        assert_eq!(handle.hits(), 1);
        handle.lift();
        reply
    };
    assert_eq!(
        lie(ListLie::Duplicates).await.keys(),
        ["p/1", "p/1", "p/2", "p/2"]
    );
    let hostile = vec![(b"../etc".to_vec(), 5 << 40)];
    let also = lie(ListLie::Also(hostile)).await;
    assert_eq!(also.keys(), ["p/1", "p/2", "../etc"]);
    assert!(also.text().contains("<Size>5497558138880</Size>"));
    assert_eq!(
        lie(ListLie::Raw(b"\xff<x".as_slice().into())).await.body,
        b"\xff<x"
    );
    let same = lie(ListLie::SamePage).await;
    let token = between(&same.text(), "<NextContinuationToken>", "</")[0].clone();
    let again = get(
        &server,
        &format!("/b?list-type=2&prefix=p/&continuation-token={token}"),
        "",
    )
    .await;
    assert_eq!(again.keys(), same.keys());
    let endless = server.fault(Fault::new(Effect::List(ListLie::EndlessKeys)));
    let first = get(&server, "/b?list-type=2&prefix=p/", "").await;
    let token = between(&first.text(), "<NextContinuationToken>", "</")[0].clone();
    let second = get(
        &server,
        &format!("/b?list-type=2&prefix=p/&continuation-token={token}"),
        "",
    )
    .await;
    assert!(second.keys()[0] > *first.keys().last().unwrap() && second.keys().len() == 1000);
    endless.lift();
    server.fault(Fault::new(Effect::ClaimSize(7)));
    assert!(
        get(&server, "/b?list-type=2", "")
            .await
            .text()
            .contains("<Size>7</Size>")
    );
}
