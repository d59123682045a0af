//! Drivers that come back, with mounts, records and boots that agree or not.

use tonic::Code;

use crate::world::{World, content};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mounts_live_on_and_a_publish_needs_nobody() {
    let mut world = World::start().await;
    let pods = [
        world.pod("a", "llama"),
        world.claim_pod("claim", "b", "llama"),
    ];
    for pod in &pods {
        world.publish(pod).await.unwrap();
    }
    let calls = world.mounter.calls();
    world.restart().await;
    assert_eq!(world.publisher().counts(), (2, 0, 0));
    assert_eq!(world.holders(), 2);
    world.source.go_down();
    world
        .doorman
        .refuse(tonnage_csi::policy::Refusal::Unavailable(
            "the API server is away".to_owned(),
        ));
    for pod in &pods {
        world.publish(pod).await.unwrap();
        let usage = world
            .stats(&pod.volume_id, &pod.request.target_path)
            .await
            .unwrap();
        assert_eq!(usage[1].used, 2);
    }
    assert_eq!(world.mounter.calls(), calls);
    for pod in &pods {
        world.unpublish(pod).await.unwrap();
    }
    world.assert_nothing_is_left(&[&pods[0], &pods[1]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reboot_drops_records_and_keeps_content() {
    let mut world = World::start().await;
    let pod = world.pod("a", "llama");
    world.publish(&pod).await.unwrap();
    let served = world.source.served();
    world.reboot().await;
    assert_eq!(world.publisher().counts(), (0, 0, 0));
    assert_eq!(
        world
            .stats(&pod.volume_id, &pod.request.target_path)
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    world.publish(&pod).await.unwrap();
    assert_eq!(world.source.served(), served, "content was fetched again");
    assert_eq!(world.mounter.attached().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_mount_is_gone_is_dropped_and_published_anew() {
    let mut world = World::start().await;
    let pod = world.pod("a", "llama");
    world.publish(&pod).await.unwrap();
    world.stop_driver().await;
    world.mounter.reboot();
    world.start_driver().await;
    assert_eq!(world.publisher().counts(), (0, 0, 0));
    world.publish(&pod).await.unwrap();
    assert_eq!(world.mounter.attached().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_whose_record_is_lost_is_kept_and_can_be_published_and_unpublished() {
    let mut world = World::start().await;
    let pods = [world.pod("a", "llama"), world.pod("b", "llama")];
    for pod in &pods {
        world.publish(pod).await.unwrap();
    }
    world.stop_driver().await;
    std::fs::remove_dir_all(world.path("cache/records/volumes")).unwrap();
    world.start_driver().await;
    assert_eq!(world.publisher().counts().0, 2);
    assert_eq!(world.holders(), 2, "mounted content may be evicted");
    world.publish(&pods[0]).await.unwrap();
    assert_eq!(world.mounter.attached().len(), 2);
    let usage = world
        .stats(&pods[0].volume_id, &pods[0].request.target_path)
        .await
        .unwrap();
    assert_eq!(usage[1].used, 2);
    for pod in &pods {
        world.unpublish(pod).await.unwrap();
    }
    world.assert_nothing_is_left(&[&pods[0], &pods[1]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_record_does_not_let_other_content_take_the_mount() {
    let mut world = World::start().await;
    let pod = world.pod("a", "llama");
    world.publish(&pod).await.unwrap();
    world.stop_driver().await;
    std::fs::remove_dir_all(world.path("cache/records/volumes")).unwrap();
    world
        .source
        .put("llama/tokenizer/vocab.json", content(9, 901));
    world.start_driver().await;
    assert_eq!(
        world.publish(&pod).await.unwrap_err().code(),
        Code::AlreadyExists
    );
    assert_eq!(world.mounter.attached().len(), 1);
    assert_eq!(world.publisher().counts(), (1, 0, 0));
}
