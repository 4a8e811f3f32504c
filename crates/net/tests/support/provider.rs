//! A listed device that offers a state of a repo and speaks the protocols by hand.

#![allow(dead_code, reason = "each test file uses a part of it")]

use ark_core::{DeviceId, Link, RepoKind, SignedState, TopicId};
use ark_store::Repo;
use ark_sync::{Hello, ItemHeader, Message, ObjectsRequest, PROTOCOL, Role};
use iroh::SecretKey;
use iroh::endpoint::{Connection, RecvStream, SendStream};

use crate::support::{Device, Stranger, frame, guarded, read_frame};

pub const SYNC: &[u8] = b"ark/sync/1";
pub const OBJECTS: &[u8] = b"ark/objects/1";

/// A hello for a repo that has this writer.
pub fn hello(id: &str, writer: DeviceId) -> Vec<u8> {
    let hello = Hello {
        protocol: PROTOCOL,
        topic: TopicId::derive(id, None),
        kind: Some(RepoKind::Folder),
        role: Role::Peer,
        folder: false,
        listed: vec![writer],
    };
    frame(&Message::Hello(hello).encode())
}

/// The device; it offers what is in `repo`, which the device that is offered it does not know.
pub struct Provider {
    pub sync: Connection,
    pub objects: Connection,
    repo: Repo,
    _hands: (Stranger, SendStream, RecvStream),
}

impl Provider {
    /// Connects to `a` and offers it a state of `repo`, which `a` calls "repo".
    pub async fn offer(key: &SecretKey, a: &Device, repo: &Repo, state: &SignedState) -> Self {
        let stranger = Stranger::new(key.clone()).await;
        stranger.endpoint.set_alpns(vec![OBJECTS.to_vec()]);
        let objects = stranger.connect(a, OBJECTS).await;
        let sync = stranger.connect(a, SYNC).await;
        let mut bytes = hello("repo", state.state().writer.device);
        bytes.extend_from_slice(&frame(&Message::States(vec![state.bytes().to_vec()]).encode()));
        let (send, recv) = Stranger::send(&sync, &bytes).await;
        Self { sync, objects, repo: repo.clone(), _hands: (stranger, send, recv) }
    }

    /// The next request for content; those for what links it are answered.
    pub async fn asked_for_content(&self) -> (SendStream, Vec<Link>) {
        loop {
            let (mut send, mut recv) =
                guarded("a request", self.objects.accept_bi()).await.unwrap();
            let request = ObjectsRequest::decode(&read_frame(&mut recv).await.unwrap()).unwrap();
            if !request.links[0].kind.is_structured() {
                return (send, request.links);
            }
            self.answer(&mut send, &request.links).await;
            send.finish().unwrap();
        }
    }

    /// Sends objects.
    pub async fn answer(&self, send: &mut SendStream, links: &[Link]) {
        for &link in links {
            send.write_all(&self.item(link).await).await.unwrap();
        }
    }

    /// An object as an answer has it.
    pub async fn item(&self, link: Link) -> Vec<u8> {
        let bytes = self.repo.read(link).await.unwrap();
        let length = u32::try_from(bytes.len()).unwrap();
        let mut item = ItemHeader::Present { link, length }.encode().to_vec();
        item.extend_from_slice(&bytes);
        item
    }
}
