//! A device with something in its repo, and another that it lists, which speaks by hand and as it
//! likes.

use std::convert::Infallible;

use ark_core::{DeviceId, Link, RepoKind, TopicId};
use ark_net::NetStatus;
use ark_recon::{End, Links, LinksUnder, Nodes, Opener, Prefix, SessionKey, Source};
use ark_sync::{Hello, Message, PROTOCOL, Role};
use iroh::SecretKey;
use iroh::endpoint::{Connection, RecvStream, SendStream};

use crate::support::{
    Device, Running, Stranger, device_id, files, frame, guarded, log, publish, read_frame,
};

const SYNC: &[u8] = b"ark/sync/1";

pub fn topic() -> TopicId {
    TopicId::derive("repo", None)
}

/// A set without links.
struct Empty;

impl Links for Empty {
    type Error = Infallible;
    fn links(&self, _: Prefix) -> Result<LinksUnder<'_, Infallible>, Infallible> {
        Ok(Box::new(std::iter::empty()))
    }
}

impl Source for Empty {
    type Failure = Infallible;
}

impl Nodes for Empty {
    type Error = Infallible;
    fn node(&self, _: Prefix) -> Result<Option<ark_recon::Node>, Infallible> {
        Ok(None)
    }
}

/// A device with something in its repo, and a listed one that speaks by hand.
pub struct Siege {
    pub a: Device,
    pub running: Running,
    pub hostile: Stranger,
    pub connection: Connection,
    /// The repo's stream.
    pub stream: (SendStream, RecvStream),
}

impl Siege {
    pub async fn new() -> Self {
        Self::with_key(SecretKey::generate()).await
    }

    pub async fn with_key(key: SecretKey) -> Self {
        log();
        let mut a = Device::new("a");
        let hostile = Device::with_key("hostile", key);
        a.share("repo", &[&hostile]);
        let running = a.start().await;
        publish(running.repo("repo"), &files(1, 500, 16)).await;
        let hostile = Stranger::new(hostile.key.clone()).await;
        let (connection, stream) = meet(&a, &hostile).await;
        Self { a, running, hostile, connection, stream }
    }

    /// Begins a session, with these bytes after its first frame.
    pub async fn begin(&self, epoch: u64, bytes: &[u8]) -> (SendStream, RecvStream) {
        let mut all = frame(&Message::Reconcile { topic: topic(), epoch }.encode());
        all.extend_from_slice(bytes);
        Stranger::send(&self.connection, &all).await
    }

    /// A whole session in which it has nothing; returns what it is told that it lacks.
    pub async fn converse(&self, epoch: u64) -> Vec<Link> {
        let key = key(&self.connection, device_id(&self.hostile.key), epoch);
        let (mut opener, step) = Opener::open(&Empty, key).unwrap();
        let said: Vec<u8> = step.frames.iter().flat_map(|it| frame(it)).collect();
        let (mut send, mut recv) = self.begin(epoch, &said).await;
        let mut lacking = Vec::new();
        loop {
            let answer = read_frame(&mut recv).await.expect("an answer");
            let step = opener.handle(&Empty, &answer).unwrap();
            lacking.extend(step.lacking);
            for said in step.frames {
                send.write_all(&frame(&said)).await.unwrap();
            }
            if let Some(end) = step.end {
                assert_eq!(end, End::Complete);
                return lacking;
            }
        }
    }

    /// It is closed for a breach, and that is shown.
    pub async fn assert_closed(&self, what: &str) {
        match guarded(what, self.connection.closed()).await {
            iroh::endpoint::ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code.into_inner(), 3, "{what}");
            }
            // The one packet that says so was lost, and nobody is left there who would know of it.
            iroh::endpoint::ConnectionError::Reset => {}
            other => panic!("{what}: closed otherwise: {other:?}"),
        }
        let shown = |status: &NetStatus| {
            let problems = &status.repos[0].problems;
            problems.iter().any(|problem| problem.contains("reconciliation"))
        };
        self.running.until(what, shown).await;
        assert!(self.running.repo_status("repo").ignored.violations > 0, "{what}");
    }
}

/// Connects, says hello, and reads the other's.
pub async fn meet(a: &Device, hostile: &Stranger) -> (Connection, (SendStream, RecvStream)) {
    let connection = hostile.connect(a, SYNC).await;
    let hello = Message::Hello(Hello {
        protocol: PROTOCOL,
        topic: topic(),
        kind: Some(RepoKind::Folder),
        role: Role::Peer,
        folder: false,
        listed: vec![device_id(&hostile.key)],
    });
    let mut stream = Stranger::send(&connection, &frame(&hello.encode())).await;
    let first = read_frame(&mut stream.1).await.unwrap();
    assert!(matches!(Message::decode(&first), Ok(Message::Hello(_))));
    (connection, stream)
}

/// The key of a session, as it must stay.
fn key(connection: &Connection, opener: DeviceId, epoch: u64) -> SessionKey {
    let mut material = [0; 32];
    connection
        .export_keying_material(&mut material, b"ark reconciliation v1", opener.as_bytes())
        .unwrap();
    SessionKey::derive(&material, topic(), epoch)
}
