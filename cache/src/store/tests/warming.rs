//! Objects that are brought into memory beside their reader.

use std::time::Duration;

use super::*;
use crate::disk::Verb;

#[tokio::test]
async fn what_is_to_be_warmed_is_read_once_and_what_is_not_there_is_passed_over() {
    let place = Place::new();
    let store = place.open();
    let object = put(&store, &content(LARGE, 1), Writing::Direct)
        .await
        .unwrap();
    let path = store.layout().object(&object.digest);
    let parts = usize::try_from(part_count(LARGE as u64)).unwrap();
    let reads = || {
        let verbs = place.disk.verbs().into_iter();
        verbs
            .filter(|(verb, at)| *verb == Verb::ReadAt && *at == path)
            .count()
    };
    let before = reads();
    store.warm([(Digest::of(b"gone"), 1), (object.digest, LARGE as u64)]);
    let all = async {
        while reads() < before + parts {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all)
        .await
        .expect("it is not read");
    drop(store);
    assert_eq!(reads(), before + parts);
}
