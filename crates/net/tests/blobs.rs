//! iroh-blobs' own client asks a device for blobs.

mod support;

use ark_core::{Object, ObjectId, ObjectKind, SignedState};
use iroh::SecretKey;
use iroh::endpoint::{Connection, ReadError, VarInt};
use iroh_blobs::Hash;
use iroh_blobs::get::fsm::{self, ConnectedNext, EndBlobNext, RequestCounters};
use iroh_blobs::protocol::{
    ChunkRanges, ChunkRangesExt, ChunkRangesSeq, GetManyRequest, GetRequest, ObserveRequest,
    PushRequest,
};
use iroh_blobs::store::mem::MemStore;
use n0_future::StreamExt;
use support::{Device, Running, Stranger, files, guarded, log, publish, refused};

/// Long enough for a hash tree of its own.
const LENGTH: usize = 300_000;

/// A device with two repos; a friend of the first; what is in them.
struct Scene {
    a: Device,
    running: Running,
    friend: Stranger,
    state: SignedState,
    /// Content of the friend's repo.
    content: Vec<(String, Vec<u8>)>,
    /// Content of the other one.
    secret: Vec<u8>,
}

impl Scene {
    async fn new() -> Self {
        log();
        let (mut a, friend, other) =
            (Device::new("a"), Device::new("friend"), Device::new("other"));
        a.share("repo", &[&friend]).share("other", &[&other]);
        let running = a.start().await;
        let mut content = files(1, 3, LENGTH);
        // One whose bytes are the ids of the others, as a hash sequence has them.
        let ids = content.iter().flat_map(|(_, bytes)| *Hash::new(bytes).as_bytes()).collect();
        content.push(("sequence".to_owned(), ids));
        let state = publish(running.repo("repo"), &content).await;
        let secrets = files(2, 1, LENGTH);
        publish(running.repo("other"), &secrets).await;
        let friend = Stranger::new(friend.key.clone()).await;
        Self { a, running, friend, state, content, secret: secrets[0].1.clone() }
    }

    async fn connect(&self) -> Connection {
        self.friend.connect(&self.a, iroh_blobs::ALPN).await
    }
}

/// What a request for one blob brings; in words why it brings nothing.
async fn get(connection: &Connection, request: GetRequest) -> Result<Vec<u8>, String> {
    let words = |error: &dyn std::fmt::Debug| format!("{error:?}");
    let get = async {
        let initial = fsm::start(connection.clone(), request, RequestCounters::default());
        let connected = initial.next().await.map_err(|e| words(&e))?;
        let ConnectedNext::StartRoot(root) = connected.next().await.map_err(|e| words(&e))? else {
            panic!("the request is for its root");
        };
        let (end, bytes) = root.next().concatenate_into_vec().await.map_err(|e| words(&e))?;
        match end.next() {
            EndBlobNext::Closing(closing) => closing.next().await.map_err(|e| words(&e))?,
            EndBlobNext::MoreChildren(_) => panic!("no children were asked for"),
        };
        Ok(bytes)
    };
    guarded("an answer", get).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_served_whole_and_in_ranges() {
    let scene = Scene::new().await;
    let connection = scene.connect().await;
    for (_, bytes) in &scene.content {
        let whole = get(&connection, GetRequest::blob(Hash::new(bytes))).await.unwrap();
        assert!(whole == *bytes);
    }
    let (_, bytes) = &scene.content[0];
    // The hash tree has a leaf for each 16 KiB.
    let (from, to) = (32_usize << 10, 64_usize << 10);
    let ranges = ChunkRanges::bytes(from as u64..to as u64);
    let part = get(&connection, GetRequest::blob_ranges(Hash::new(bytes), ranges)).await.unwrap();
    assert!(part == bytes[from..to]);
    let all: usize = scene.content.iter().map(|(_, bytes)| bytes.len()).sum();
    let sent = scene.running.net.status().peers.iter().map(|peer| peer.tx_bytes).sum::<u64>();
    assert!(sent >= (all + to - from) as u64, "what is served is counted: {sent}");
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_content_of_a_repo_that_lists_the_device_is_missing() {
    let scene = Scene::new().await;
    let connection = scene.connect().await;
    let unknown = get(&connection, GetRequest::blob(Hash::new(b"nobody has this"))).await;
    let unknown = unknown.unwrap_err();
    let secret = get(&connection, GetRequest::blob(Hash::new(&scene.secret))).await.unwrap_err();
    assert_eq!(secret, unknown, "of another repo: told apart by nothing");
    // What is structured, and the signed state, which is a blob, too.
    let head = scene.state.state().heads[0].id;
    let state = Object::new(ObjectKind::Raw, scene.state.bytes().to_vec()).id();
    for id in [head, state] {
        let hash = Hash::from_bytes(*ObjectId::as_bytes(&id));
        assert_eq!(get(&connection, GetRequest::blob(hash)).await.unwrap_err(), unknown);
    }
    // The connection lives on.
    let bytes = &scene.content[0].1;
    assert!(get(&connection, GetRequest::blob(Hash::new(bytes))).await.unwrap() == *bytes);
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_but_a_get_of_one_blob_is_refused() {
    let scene = Scene::new().await;
    let connection = scene.connect().await;
    let hash = |n: usize| Hash::new(&scene.content[n].1);
    let sequence = hash(3);
    for ranges in [
        ChunkRangesSeq::all(),
        ChunkRangesSeq::verified_child_sizes(),
        ChunkRangesSeq::from_ranges([ChunkRanges::all(), ChunkRanges::all()]),
    ] {
        let request = GetRequest::new(sequence, ranges);
        let words = get(&connection, request).await.unwrap_err();
        assert!(words.contains("reset by peer: error 1 "), "refused: {words}");
    }
    let many = GetManyRequest::new(vec![hash(0), hash(1)], ChunkRangesSeq::all());
    let many = guarded("an answer", async {
        let start = fsm::start_get_many(connection.clone(), many, RequestCounters::default()).await;
        let Ok(Ok(child)) = start else { panic!("the request was made") };
        child.next(hash(0)).concatenate_into_vec().await.map(|_| ())
    });
    let words = format!("{:?}", many.await.unwrap_err());
    assert!(words.contains("reset by peer: error 1 "), "refused: {words}");

    let client = MemStore::new();
    let observed = client.remote().observe(connection.clone(), ObserveRequest::new(hash(0)));
    let observed = guarded("an answer", std::pin::pin!(observed).next()).await;
    assert!(matches!(observed, None | Some(Err(_))), "{observed:?}");

    let pushed = client.add_slice(b"pushed").temp_tag().await.unwrap();
    let push = PushRequest::new(pushed.hash(), ChunkRangesSeq::root());
    // So few bytes may all be on their way before the refusal comes: then it hears of none.
    let push = client.remote().execute_push(connection.clone(), push).complete();
    drop(guarded("an answer", push).await);
    get(&connection, GetRequest::blob(pushed.hash())).await.unwrap_err();

    let bytes = &scene.content[0].1;
    assert!(get(&connection, GetRequest::blob(hash(0))).await.unwrap() == *bytes);
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_ends_its_stream_and_nothing_else() {
    let scene = Scene::new().await;
    let connection = scene.connect().await;
    // Of no kind; a Get of what is no hash; one that says that it is longer than there are bytes.
    let hash = Hash::new(&scene.content[0].1);
    let endless = [&[0][..], hash.as_bytes(), &[255, 255, 255, 255, 127]].concat();
    // A Get that is one, of every second of many more ranges than any object has.
    let mut ranges = [&[0][..], hash.as_bytes(), &[2, 0, 0xA0, 0x8D, 0x06]].concat();
    ranges.extend(std::iter::repeat_n(1, 100_000));
    ranges.extend([1, 0]);
    for garbage in [vec![9; 100], vec![0; 10], endless, ranges] {
        let (mut send, mut recv) = Stranger::send(&connection, &garbage).await;
        send.finish().unwrap();
        match guarded("the end of the stream", recv.read(&mut [0])).await {
            Err(ReadError::Reset(code)) => assert_eq!(code, VarInt::from_u32(3)),
            other => panic!("{other:?}"),
        }
    }
    let bytes = &scene.content[0].1;
    assert!(get(&connection, GetRequest::blob(hash)).await.unwrap() == *bytes);
    scene.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_not_listed_is_refused() {
    let scene = Scene::new().await;
    let stranger = Stranger::new(SecretKey::generate()).await;
    let connection = stranger.connect(&scene.a, iroh_blobs::ALPN).await;
    let bytes = &scene.content[0].1;
    get(&connection, GetRequest::blob(Hash::new(bytes))).await.unwrap_err();
    match guarded("the refusal", connection.closed()).await {
        iroh::endpoint::ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, VarInt::from_u32(1));
        }
        // The one packet that says so was lost, and nobody is left there who would know of it.
        iroh::endpoint::ConnectionError::Reset => {}
        other => panic!("closed otherwise: {other:?}"),
    }
    assert!(refused(&scene.running.net.status()).contains(&support::device_id(&stranger.key)));
    scene.running.stop().await;
}
