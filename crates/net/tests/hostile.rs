//! Who may not connect, what may not be asked, and bytes that are no protocol.

mod support;

use std::fmt::Write as _;

use ark_core::{DeviceId, Link, Object, ObjectKind, RepoKind, SealingKey, TopicId};
use ark_net::{Net, NetStatus, Past, StartError};
use ark_sync::{
    Announced, Announcement, Hello, ITEM_HEADER_BYTES, ItemHeader, Message, ObjectsRequest,
    PROTOCOL, Role,
};
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{Connection, ReadError, ReadToEndError, RecvStream, VarInt};
use iroh::{EndpointAddr, SecretKey};
use iroh_gossip::net::Gossip;
use support::{
    Device, Running, Stranger, assert_has, device_id, files, frame, guarded, log, publish,
    publish_named, read_frame, refused,
};

const SYNC: &[u8] = b"ark/sync/1";
const OBJECTS: &[u8] = b"ark/objects/1";

fn topic(id: &str) -> TopicId {
    TopicId::derive(id, None)
}

/// The ALPN under which a repo gossips, as it must stay.
fn gossip_alpn(id: &str) -> Vec<u8> {
    let derived = blake3::derive_key("ark gossip alpn v1", topic(id).as_bytes());
    let mut alpn = "ark/gossip/1/".to_owned();
    for byte in &derived[..8] {
        write!(alpn, "{byte:02x}").unwrap();
    }
    alpn.into_bytes()
}

/// With which code it is closed. That is said in one packet: `None` where it was lost, and nobody is
/// left there who would know of the connection.
async fn code_of_close(connection: &Connection) -> Option<u64> {
    match guarded("a close", connection.closed()).await {
        iroh::endpoint::ConnectionError::ApplicationClosed(close) => {
            Some(close.error_code.into_inner())
        }
        iroh::endpoint::ConnectionError::Reset => None,
        other => panic!("closed otherwise: {other:?}"),
    }
}

/// Each connection that is made like this is closed with this code; and its streams stay open until
/// then.
async fn assert_closed<S>(code: u64, what: &str, connect: impl AsyncFn() -> (Connection, S)) {
    let told = async {
        loop {
            let (connection, _streams) = connect().await;
            if let Some(told) = code_of_close(&connection).await {
                return told;
            }
        }
    };
    assert_eq!(guarded(what, told).await, code, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlisted_device_is_refused_and_shown() {
    log();
    let (mut a, mut b) = (Device::new("a"), Device::new("b"));
    a.share("repo", &[]);
    let running_a = a.start().await;
    b.share("repo", &[&a]);
    let running_b = b.start().await;
    let id = b.id();
    running_a.until("the refusal", |status| refused(status).contains(&id)).await;
    running_b
        .until("being told", |status| {
            status.peers[0].problem.is_some() && !status.peers[0].connected
        })
        .await;
    assert!(running_a.net.status().peers.is_empty());
    // Nothing is open to it on any protocol.
    let stranger = Stranger::new(SecretKey::generate()).await;
    for alpn in [SYNC, OBJECTS, &gossip_alpn("repo")] {
        assert_closed(1, "a stranger", async || (stranger.connect(&a, alpn).await, ())).await;
    }
    let stranger = device_id(&stranger.key);
    running_a.until("the stranger", |status| refused(status).contains(&stranger)).await;
    running_a.stop().await;
    running_b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listed_device_gets_nothing_of_another_repo() {
    log();
    let mut a = Device::new("a");
    let friend = Device::new("friend");
    let other = Device::new("other");
    a.share("x", &[&friend]).share("y", &[&other]);
    let running = a.start().await;
    let (in_x, in_y) = (files(1, 1, 100), files(2, 1, 100));
    publish(running.repo("x"), &in_x).await;
    publish(running.repo("y"), &in_y).await;
    let link =
        |files: &[(String, Vec<u8>)]| Object::new(ObjectKind::Raw, files[0].1.clone()).link();
    let (x, y) = (link(&in_x), link(&in_y));

    let friend = Stranger::new(friend.key.clone()).await;
    let connection = friend.connect(&a, OBJECTS).await;
    assert_eq!(ask(&connection, "x", vec![x, y]).await, [(x, Some(in_x[0].1.clone())), (y, None)]);
    assert_eq!(ask(&connection, "y", vec![x, y]).await, [(x, None), (y, None)]);
    assert_eq!(ask(&connection, "z", vec![y]).await, [(y, None)]);

    // Nor may it join the other repo's gossip or open its stream.
    let gossip = gossip_alpn("y");
    assert_closed(1, "gossip", async || (friend.connect(&a, &gossip).await, ())).await;
    let sync = friend.connect(&a, SYNC).await;
    let hello = frame(&hello("y", &friend).encode());
    let (_send, mut recv) = Stranger::send(&sync, &hello).await;
    assert_eq!(read_frame(&mut recv).await, None);
    running.stop().await;
}

/// Whoever dials, and whatever else they share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_are_told_of_a_repo_that_only_one_lists() {
    log();
    // The second to start knows where the first is, so it dials.
    for first_is_a in [true, false] {
        let (mut a, mut b) = (Device::new("a"), Device::new("b"));
        let (id_a, id_b) = (a.id(), b.id());
        let (running_a, running_b);
        if first_is_a {
            a.share("both", &[&b]).share("of a", &[&b]);
            running_a = a.start().await;
            b.share("both", &[&a]).share("of b", &[&a]);
            running_b = b.start().await;
        } else {
            b.share("both", &[&a]).share("of b", &[&a]);
            running_b = b.start().await;
            a.share("both", &[&b]).share("of a", &[&b]);
            running_a = a.start().await;
        }
        running_a.until_refused("of a", id_b).await;
        running_b.until_refused("of b", id_a).await;
        for (running, other) in [(&running_a, id_b), (&running_b, id_a)] {
            running.until_met("both", other).await;
            let remotes = running.repo_status("both").remotes;
            assert!(!remotes[0].refuses_us);
        }
        // What they share goes on.
        let state = publish(running_a.repo("both"), &files(1, 2, 100)).await;
        running_b.until_durable("both", &state).await;
        running_a.stop().await;
        running_b.stop().await;
    }
}

/// A device is asked about nothing but what it is listed for, and told nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_who_lists_what_gives_nothing_away() {
    log();
    let mut a = Device::new("a");
    let (friend, other) = (Device::new("friend"), Device::new("other"));
    a.share("x", &[&friend]).share("y", &[&other]);
    let running = a.start().await;
    let friend = Stranger::new(friend.key.clone()).await;
    let sync = friend.connect(&a, SYNC).await;

    let (send, mut recv) = guarded("a question", sync.accept_bi()).await.unwrap();
    let first = read_frame(&mut recv).await.unwrap();
    assert_eq!(Message::decode(&first), Ok(Message::Ask(topic("x"))));
    drop(send);

    // It is listed for x; of y and of what is nowhere it learns the same.
    let mut answers = Vec::new();
    for id in ["x", "y", "nowhere"] {
        let ask = frame(&Message::Ask(topic(id)).encode());
        let (_send, mut recv) = Stranger::send(&sync, &ask).await;
        answers.push(guarded("an answer", recv.read_to_end(0)).await);
    }
    assert_eq!(answers[0], Ok(Vec::new()));
    let refused = ReadToEndError::Read(ReadError::Reset(VarInt::from_u32(1)));
    assert_eq!(answers[1..], [Err(refused.clone()), Err(refused)]);
    assert!(sync.close_reason().is_none());
    running.stop().await;
}

fn hello(id: &str, stranger: &Stranger) -> Message {
    hello_listing(id, vec![device_id(&stranger.key)])
}

/// Takes the states of these devices.
fn hello_listing(id: &str, mut listed: Vec<DeviceId>) -> Message {
    listed.sort_unstable();
    Message::Hello(Hello {
        protocol: PROTOCOL,
        topic: topic(id),
        kind: Some(RepoKind::Folder),
        role: Role::Peer,
        folder: false,
        listed,
    })
}

/// Asks for objects by hand.
async fn ask(connection: &Connection, id: &str, links: Vec<Link>) -> Vec<(Link, Option<Vec<u8>>)> {
    let request = ObjectsRequest { topic: topic(id), links, ahead: false };
    let (mut send, mut recv) = Stranger::send(connection, &frame(&request.encode())).await;
    send.finish().unwrap();
    let mut items = Vec::new();
    while let Some(item) = item(&mut recv).await {
        items.push(item);
    }
    items
}

async fn item(recv: &mut RecvStream) -> Option<(Link, Option<Vec<u8>>)> {
    let mut header = [0; ITEM_HEADER_BYTES];
    guarded("an item", recv.read_exact(&mut header)).await.ok()?;
    let header = ItemHeader::decode(&header).unwrap();
    let ItemHeader::Present { link, .. } = header else { return Some((header.link(), None)) };
    let mut bytes = vec![0; header.length()];
    guarded("an object", recv.read_exact(&mut bytes)).await.unwrap();
    Some((link, Some(bytes)))
}

/// A device that lists an honest peer and a hostile one, and runs beside the honest one.
struct Siege {
    a: Device,
    running: Running,
    honest: Running,
    hostile: Stranger,
    _honest: Device,
}

async fn besieged() -> Siege {
    log();
    let mut a = Device::new("a");
    let mut honest = Device::new("honest");
    let hostile = Device::new("hostile");
    a.share("repo", &[&honest, &hostile]);
    let running = a.start().await;
    honest.share("repo", &[&a]);
    let running_honest = honest.start().await;
    let hostile = Stranger::new(hostile.key.clone()).await;
    Siege { a, running, honest: running_honest, hostile, _honest: honest }
}

/// Data still flows between the honest ones.
async fn assert_goes_on(a: &Running, honest: &Running, seed: u64) {
    let content = files(seed, 3, 2000);
    let state = publish(a.repo("repo"), &content).await;
    honest.until_durable("repo", &state).await;
    assert_has(honest.repo("repo"), &content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_closes_its_connection_only() {
    let Siege { a, running, honest, hostile, _honest } = besieged().await;
    running.until_met("repo", honest.id).await;
    let empty_frame = frame(&[]);
    let noise = frame(&[0x5a; 300]);
    let too_long = u32::MAX.to_le_bytes();
    for garbage in [&empty_frame[..], &noise, &too_long] {
        for alpn in [SYNC, OBJECTS] {
            assert_closed(3, &format!("{garbage:?}"), async || {
                let connection = hostile.connect(&a, alpn).await;
                let (mut send, recv) = Stranger::send(&connection, garbage).await;
                // The peer may have closed already.
                let _ = send.finish();
                (connection, (send, recv))
            })
            .await;
        }
        // iroh-gossip reads unidirectional streams; what it makes of garbage is its own.
        let connection = hostile.connect(&a, &gossip_alpn("repo")).await;
        let mut send = guarded("a stream", connection.open_uni()).await.unwrap();
        let _ = send.write_all(garbage).await;
        let _ = send.finish();
    }
    assert_goes_on(&running, &honest, 1).await;

    // A good beginning, then garbage.
    let mut bytes = frame(&hello("repo", &hostile).encode());
    bytes.extend_from_slice(&noise);
    assert_closed(3, "a good beginning", async || {
        let connection = hostile.connect(&a, SYNC).await;
        let streams = Stranger::send(&connection, &bytes).await;
        (connection, streams)
    })
    .await;
    assert_goes_on(&running, &honest, 2).await;
    running.stop().await;
    honest.stop().await;
}

/// Each question is a few bytes, each answer all that is known: many of them are bytes that wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_asks_and_does_not_read_is_closed() {
    /// Fewer than the messages that may wait, and answers of more bytes than may.
    const QUESTIONS: usize = 200;
    let Siege { a, running, honest, hostile, _honest } = besieged().await;
    running.until_met("repo", honest.id).await;
    let state = publish_named(running.repo("repo"), &files(9, 1, 10), 900).await;
    assert!(state.bytes().len() * QUESTIONS > 6 << 20, "{} bytes", state.bytes().len());

    let mut bytes =
        frame(&hello_listing("repo", vec![running.id, device_id(&hostile.key)]).encode());
    for _ in 0..QUESTIONS {
        bytes.extend_from_slice(&frame(&Message::Summary(Vec::new()).encode()));
    }
    assert_closed(4, "one that does not read", async || {
        let connection = hostile.connect(&a, SYNC).await;
        let streams = Stranger::send(&connection, &bytes).await;
        (connection, streams)
    })
    .await;
    assert_goes_on(&running, &honest, 5).await;
    running.stop().await;
    honest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_states_are_ignored_and_counted() {
    let Siege { a, running, honest, hostile, _honest } = besieged().await;
    honest.until_met("repo", running.id).await;
    let state = publish(honest.repo("repo"), &files(9, 1, 10)).await;
    running.until_durable("repo", &state).await;
    let before = running.repo_status("repo").durable;

    // A signed state of the honest device, changed in one bit: of its signature, of its body.
    let connection = hostile.connect(&a, SYNC).await;
    let mut bytes = frame(&hello("repo", &hostile).encode());
    for at in [5, state.bytes().len() - 1] {
        let mut forged = state.bytes().to_vec();
        forged[at] ^= 1;
        bytes.extend_from_slice(&frame(&Message::States(vec![forged]).encode()));
    }
    let (_send, _recv) = Stranger::send(&connection, &bytes).await;
    let forged = |status: &NetStatus| status.repos[0].ignored.forged >= 2;
    running.until("the forgeries being counted", forged).await;
    assert_eq!(running.repo_status("repo").durable, before);
    assert_goes_on(&running, &honest, 3).await;
    running.stop().await;
    honest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_that_lies_is_ignored_and_counted() {
    let Siege { a, running, honest, hostile, _honest } = besieged().await;
    honest.until_met("repo", running.id).await;
    let state = publish(honest.repo("repo"), &files(9, 1, 10)).await;
    running.until_durable("repo", &state).await;
    let before = running.repo_status("repo").durable;

    let hints =
        MemoryLookup::from_endpoint_info(
            [EndpointAddr::new(a.key.public()).with_ip_addr(a.addr())],
        );
    hostile.endpoint.address_lookup().unwrap().add(hints);
    let gossip = Gossip::builder().alpn(gossip_alpn("repo")).spawn(hostile.endpoint.clone());
    let gossip_topic = iroh_gossip::TopicId::from_bytes(*topic("repo").as_bytes());
    let join = gossip.subscribe_and_join(gossip_topic, vec![a.key.public()]);
    let (sender, _receiver) = guarded("joining", join).await.unwrap().split();

    let mut forged = state.bytes().to_vec();
    forged[5] ^= 1;
    let announcement = Announcement { state: Announced::State(forged), new: Vec::new() }.encode();
    let key = SealingKey::derive("repo", None);
    for payload in [
        b"not sealed".to_vec(),
        seal(&SealingKey::derive("another", None), &announcement),
        seal(&key, b"not an announcement"),
        seal(&key, &announcement),
    ] {
        sender.broadcast(payload.into()).await.unwrap();
    }
    let counted = |status: &NetStatus| status.repos[0].ignored.forged == 1;
    running.until("the forgery being counted", counted).await;
    assert_eq!(running.repo_status("repo").durable, before);
    assert_goes_on(&running, &honest, 4).await;
    running.stop().await;
    honest.stop().await;
}

/// A payload sealed as ark does: 24 bytes nonce, then XChaCha20-Poly1305.
fn seal(key: &SealingKey, payload: &[u8]) -> Vec<u8> {
    let nonce = [7; 24];
    let cipher = XChaCha20Poly1305::new(key.as_bytes().into());
    let mut sealed = nonce.to_vec();
    sealed.extend(cipher.encrypt(&XNonce::from(nonce), payload).unwrap());
    sealed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_lie_are_not_kept() {
    log();
    // A provider that announces a state and then sends other bytes than its objects.
    let mut a = Device::new("a");
    let mut liar = Device::new("liar");
    a.share("repo", &[&liar]);
    let running = a.start().await;
    // The state is a real one, made where nobody listens.
    liar.share("repo", &[]);
    let home = liar.start().await;
    let state = publish(home.repo("repo"), &files(4, 1, 10)).await;
    home.stop().await;

    let stranger = Stranger::new(liar.key.clone()).await;
    stranger.endpoint.set_alpns(vec![OBJECTS.to_vec()]);
    let objects = stranger.connect(&a, OBJECTS).await;
    let sync = stranger.connect(&a, SYNC).await;
    let mut bytes = frame(&hello("repo", &stranger).encode());
    bytes.extend_from_slice(&frame(&Message::States(vec![state.bytes().to_vec()]).encode()));
    let (_send, _recv) = Stranger::send(&sync, &bytes).await;

    // The object connection is used by both sides: here comes the request.
    let (mut send, mut recv) = guarded("a request", objects.accept_bi()).await.unwrap();
    let request = ObjectsRequest::decode(&read_frame(&mut recv).await.unwrap()).unwrap();
    assert_eq!(request.topic, topic("repo"));
    let link = request.links[0];
    let lie = b"not what was asked for";
    let header = ItemHeader::Present { link, length: u32::try_from(lie.len()).unwrap() };
    send.write_all(&header.encode()).await.unwrap();
    send.write_all(lie).await.unwrap();
    let _ = send.finish();
    assert!(code_of_close(&objects).await.is_none_or(|code| code == 3));
    assert_eq!(running.repo("repo").indexed(&[link]).await.unwrap(), [false]);
    assert!(running.repo_status("repo").durable.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let device = Device::new("a");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut options = device.options();
    options.bind = vec![socket.local_addr().unwrap()];
    match Net::start(options, Vec::new(), Past::default()).await {
        Err(StartError::Busy { addr, .. }) => assert_eq!(addr, socket.local_addr().unwrap()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_the_given_addresses_are_opened() {
    let mut device = Device::new("a");
    let running = device.start().await;
    let addrs = running.net.status().local_addrs;
    assert_eq!(addrs.len(), 1);
    assert!(addrs[0].ip().is_loopback());
    running.stop().await;
}
