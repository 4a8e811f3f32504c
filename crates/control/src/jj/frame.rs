//! How questions and answers travel.

use std::io;

use ark_core::{Link, MAX_OBJECT_BYTES, Object, ObjectId, ObjectKind};
use bytes::{Bytes, BytesMut};
use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Answer, Ask, MAX_IDS};
use crate::frame::FrameError;

/// The most bytes of a header: room for the heads of a repo that thousands write to, and for words.
pub const MAX_HEADER_BYTES: usize = 1 << 20;
/// The most bytes of words about a failure that are sent.
const MAX_WORDS_BYTES: usize = 16 << 10;

/// The header of a question.
#[derive(Archive, Serialize, Deserialize)]
struct AskHeader {
    number: u64,
    ask: WireAsk,
}

#[derive(Archive, Serialize, Deserialize)]
enum WireAsk {
    Get(WireLink),
    /// The body is the object.
    Put(WireLink),
    Barrier,
    Ids {
        kind: u8,
        first: ObjectId,
        last: ObjectId,
        limit: u32,
    },
    Heads,
    UpdateHeads {
        old: Vec<ObjectId>,
        new: Option<ObjectId>,
    },
    ReplaceHeads {
        old: Vec<ObjectId>,
        new: ObjectId,
    },
}

/// The header of an answer.
#[derive(Archive, Serialize, Deserialize)]
struct AnswerHeader {
    number: u64,
    answer: WireAnswer,
}

#[derive(Archive, Serialize, Deserialize)]
enum WireAnswer {
    /// The body is the object.
    Object,
    Absent,
    Done,
    Changed,
    Ids(Vec<ObjectId>),
    Failed(String),
    Refused(WireLink, String),
}

#[derive(Archive, Serialize, Deserialize)]
struct WireLink {
    kind: u8,
    id: ObjectId,
}

impl From<Link> for WireLink {
    fn from(link: Link) -> Self {
        Self { kind: link.kind as u8, id: link.id }
    }
}

impl WireLink {
    fn link(&self) -> Result<Link, FrameError> {
        Ok(Link { kind: kind(self.kind)?, id: self.id })
    }
}

fn kind(number: u8) -> Result<ObjectKind, FrameError> {
    ObjectKind::from_u8(number).ok_or(FrameError::Invalid("objects of a kind that there is not"))
}

/// Writes a question, perhaps into a buffer: it is on its way after a flush.
pub(super) async fn write_ask(
    stream: &mut (impl AsyncWrite + Unpin),
    number: u64,
    ask: &Ask,
) -> Result<(), FrameError> {
    let mut body = Bytes::new();
    let ask = match ask {
        Ask::Get(link) => WireAsk::Get((*link).into()),
        Ask::Put(object) => {
            body = object.bytes().clone();
            WireAsk::Put(object.link().into())
        }
        Ask::Barrier => WireAsk::Barrier,
        Ask::Ids { kind, range, limit } => WireAsk::Ids {
            kind: *kind as u8,
            first: *range.start(),
            last: *range.end(),
            limit: u32::try_from(*limit).unwrap_or(u32::MAX),
        },
        Ask::Heads => WireAsk::Heads,
        Ask::UpdateHeads { old, new } => WireAsk::UpdateHeads { old: old.clone(), new: *new },
        Ask::ReplaceHeads { old, new } => WireAsk::ReplaceHeads { old: old.clone(), new: *new },
    };
    let header = rkyv::to_bytes(&AskHeader { number, ask }).map_err(FrameError::Archive)?;
    write(stream, &header, &body).await
}

/// The next question and its number; `None` where the process has ended. An object has the hash
/// that it was sent under.
pub(super) async fn read_ask(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(u64, Ask)>, FrameError> {
    let Some((header, body)) = read(stream).await? else { return Ok(None) };
    let header = rkyv::from_bytes::<AskHeader, ArchiveError>(&header);
    let AskHeader { number, ask } = header.map_err(FrameError::Archive)?;
    if !body.is_empty() && !matches!(ask, WireAsk::Put(_)) {
        return Err(FrameError::Invalid("a question with an object that it has no use for"));
    }
    let ask = match ask {
        WireAsk::Get(link) => Ask::Get(link.link()?),
        WireAsk::Put(link) => {
            let said = link.link()?;
            let object = Object::new(said.kind, body);
            if object.link() != said {
                return Err(FrameError::Invalid("an object under a name that is not its own"));
            }
            Ask::Put(object)
        }
        WireAsk::Barrier => Ask::Barrier,
        WireAsk::Ids { kind: number, first, last, limit } => {
            let limit = usize::try_from(limit).unwrap_or(MAX_IDS).min(MAX_IDS);
            Ask::Ids { kind: kind(number)?, range: first..=last, limit }
        }
        WireAsk::Heads => Ask::Heads,
        WireAsk::UpdateHeads { old, new } => Ask::UpdateHeads { old, new },
        WireAsk::ReplaceHeads { old, new } => Ask::ReplaceHeads { old, new },
    };
    Ok(Some((number, ask)))
}

/// Writes an answer, perhaps into a buffer.
pub(super) async fn write_answer(
    stream: &mut (impl AsyncWrite + Unpin),
    number: u64,
    answer: Answer,
) -> Result<(), FrameError> {
    let mut body = Bytes::new();
    let answer = match answer {
        Answer::Object(bytes) => {
            body = bytes;
            WireAnswer::Object
        }
        Answer::Absent => WireAnswer::Absent,
        Answer::Done => WireAnswer::Done,
        Answer::Changed => WireAnswer::Changed,
        Answer::Ids(ids) => WireAnswer::Ids(ids),
        Answer::Failed(words) => WireAnswer::Failed(bounded(words)),
        Answer::Refused(link, words) => WireAnswer::Refused(link.into(), bounded(words)),
    };
    let header = rkyv::to_bytes(&AnswerHeader { number, answer }).map_err(FrameError::Archive)?;
    write(stream, &header, &body).await
}

fn bounded(mut words: String) -> String {
    words.truncate(words.floor_char_boundary(MAX_WORDS_BYTES));
    words
}

/// The next answer and the number of its question; `None` where the daemon has ended.
pub(super) async fn read_answer(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<(u64, Answer)>, FrameError> {
    let Some((header, body)) = read(stream).await? else { return Ok(None) };
    let header = rkyv::from_bytes::<AnswerHeader, ArchiveError>(&header);
    let AnswerHeader { number, answer } = header.map_err(FrameError::Archive)?;
    if !body.is_empty() && !matches!(answer, WireAnswer::Object) {
        return Err(FrameError::Invalid("an answer with an object that nobody asked for"));
    }
    let answer = match answer {
        WireAnswer::Object => Answer::Object(body),
        WireAnswer::Absent => Answer::Absent,
        WireAnswer::Done => Answer::Done,
        WireAnswer::Changed => Answer::Changed,
        WireAnswer::Ids(ids) => Answer::Ids(ids),
        WireAnswer::Failed(words) => Answer::Failed(words),
        WireAnswer::Refused(link, words) => Answer::Refused(link.link()?, words),
    };
    Ok(Some((number, answer)))
}

async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    header: &[u8],
    body: &[u8],
) -> Result<(), FrameError> {
    let lengths = [(header, MAX_HEADER_BYTES), (body, MAX_OBJECT_BYTES)];
    for (part, limit) in lengths {
        let length = part.len();
        let fits = u32::try_from(length).ok().filter(|_| length <= limit);
        let length = fits.ok_or(FrameError::TooLong { length, limit })?;
        stream.write_all(&length.to_le_bytes()).await?;
    }
    stream.write_all(header).await?;
    Ok(stream.write_all(body).await?)
}

/// Header and body of the next frame; `None` where the connection ended between two.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<(Bytes, Bytes)>, FrameError> {
    let mut lengths = [[0; 4]; 2];
    let read = stream.read(lengths.as_flattened_mut()).await?;
    if read == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut lengths.as_flattened_mut()[read..]).await?;
    let [header, body] = lengths.map(|length| u32::from_le_bytes(length) as usize);
    for (length, limit) in [(header, MAX_HEADER_BYTES), (body, MAX_OBJECT_BYTES)] {
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
    }
    let header = exactly(stream, header).await?;
    Ok(Some((header, exactly(stream, body).await?)))
}

/// So many bytes, of a length that was checked.
async fn exactly(stream: &mut (impl AsyncRead + Unpin), length: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(length);
    let mut stream = stream.take(length as u64);
    while bytes.len() < length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks() -> Vec<Ask> {
        let id = |n: u8| ObjectId::from_bytes([n; 32]);
        vec![
            Ask::Get(Link { kind: ObjectKind::Commit, id: id(1) }),
            Ask::Put(Object::new(ObjectKind::Raw, vec![7; 3])),
            Ask::Put(Object::new(ObjectKind::Raw, Vec::new())),
            Ask::Barrier,
            Ask::Ids { kind: ObjectKind::Copy, range: id(2)..=id(9), limit: 2 },
            Ask::Heads,
            Ask::UpdateHeads { old: vec![id(3), id(4)], new: Some(id(5)) },
            Ask::UpdateHeads { old: Vec::new(), new: None },
            Ask::ReplaceHeads { old: vec![id(6)], new: id(7) },
        ]
    }

    async fn bytes_of(number: u64, ask: &Ask) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_ask(&mut bytes, number, ask).await.expect("a vector takes all");
        bytes
    }

    async fn sent(mut bytes: &[u8]) -> Result<Option<(u64, Ask)>, FrameError> {
        read_ask(&mut bytes).await
    }

    #[tokio::test]
    async fn what_is_sent_arrives() {
        for (number, ask) in (u64::MAX - 20..).zip(asks()) {
            let bytes = bytes_of(number, &ask).await;
            let (found, arrived) = sent(&bytes).await.expect("a question").expect("a question");
            assert_eq!((found, format!("{arrived:?}")), (number, format!("{ask:?}")));
        }
        let answers = [
            Answer::Object(Bytes::from_static(b"bytes")),
            Answer::Object(Bytes::new()),
            Answer::Absent,
            Answer::Done,
            Answer::Changed,
            Answer::Ids(vec![ObjectId::from_bytes([3; 32])]),
            Answer::Failed("no room".into()),
            Answer::Refused(Link::raw(ObjectId::from_bytes([3; 32])), "never".into()),
        ];
        let mut bytes = Vec::new();
        for (number, answer) in (0..).zip(answers.clone()) {
            write_answer(&mut bytes, number, answer).await.expect("a vector takes all");
        }
        let mut stream = &bytes[..];
        for expected in (0..).zip(answers) {
            assert_eq!(read_answer(&mut stream).await.expect("an answer"), Some(expected));
        }
        assert_eq!(read_answer(&mut stream).await.expect("the end"), None);
    }

    #[tokio::test]
    async fn hostile_frames_are_refused() {
        let lengths = |header: usize, body: usize| {
            let length = |length| u32::try_from(length).expect("small").to_le_bytes();
            [length(header), length(body)].concat()
        };
        let too_long = sent(&lengths(MAX_HEADER_BYTES + 1, 0)).await;
        assert!(matches!(too_long, Err(FrameError::TooLong { limit: MAX_HEADER_BYTES, .. })));
        let too_long = sent(&lengths(1, MAX_OBJECT_BYTES + 1)).await;
        assert!(matches!(too_long, Err(FrameError::TooLong { limit: MAX_OBJECT_BYTES, .. })));
        assert!(matches!(sent(&lengths(0, 0)).await, Err(FrameError::Archive(_))));
        assert!(matches!(sent(&lengths(9, 0)).await, Err(FrameError::Io(_))));
        assert!(matches!(sent(&[1, 0, 0]).await, Err(FrameError::Io(_))));
        // An object that is not what its name says, and one where none belongs.
        let mut put = bytes_of(1, &Ask::Put(Object::new(ObjectKind::Raw, vec![7; 3]))).await;
        *put.last_mut().expect("a body") = 8;
        assert!(matches!(sent(&put).await, Err(FrameError::Invalid(_))));
        let mut heads = bytes_of(1, &Ask::Heads).await;
        heads[4] = 1;
        heads.push(0);
        assert!(matches!(sent(&heads).await, Err(FrameError::Invalid(_))));
        let long = Object::new(ObjectKind::Raw, vec![0; MAX_OBJECT_BYTES + 1]);
        let written = write_ask(&mut Vec::new(), 1, &Ask::Put(long)).await;
        assert!(matches!(written, Err(FrameError::TooLong { .. })));
    }

    #[tokio::test]
    async fn every_single_bit_change_is_an_error_or_a_question() {
        for ask in asks() {
            let bytes = bytes_of(3, &ask).await;
            for index in 0..bytes.len() {
                for bit in 0..8 {
                    let mut changed = bytes.clone();
                    changed[index] ^= 1 << bit;
                    // No panic and no hang is all that can be asked.
                    drop(sent(&changed).await);
                }
            }
        }
    }
}
