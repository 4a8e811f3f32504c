//! The daemon's end, over whatever holds the repo.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ark_core::{Link, MAX_OBJECT_BYTES, Object, ObjectId, ObjectKind};
use bytes::Bytes;
use tokio::io::{AsyncWriteExt as _, BufReader, BufWriter};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connect::BUFFER_BYTES;
use super::frame::{read_ask, write_answer};
use super::{Answer, Ask};
use crate::frame::FrameError;

/// The most that is read of the repo at once for one process: an answer holds its place until it is
/// written, so these are at most 64 MiB, and of usual objects some.
pub const MAX_ANSWERS_AT_ONCE: usize = 16;
/// The most bytes of one process that wait to be taken in, frames included: two of the largest
/// objects, so that one is read while another is stored.
const MAX_WAITING_BYTES: usize = 2 * MAX_OBJECT_BYTES + (1 << 20);
/// What a frame costs beside its objects and ids.
const FRAME_BYTES: usize = 256;
/// How long a process is waited for that does not take its answers when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why an object was not taken in, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutFailure {
    /// It will never be, as it is: it links what is not there, say.
    Refused(String),
    /// The repo could not.
    Failed(String),
}

/// What holds a repo. Errors are in words, for who runs jj.
pub trait Repository: Send + Sync + 'static {
    /// The bytes of an object, whose hash was verified; `None` where there is none.
    fn get(&self, link: Link) -> impl Future<Output = Result<Option<Bytes>, String>> + Send;

    /// Takes an object in: it need not be durable yet.
    fn put(&self, object: Object) -> impl Future<Output = Result<(), PutFailure>> + Send;

    /// All that was put before is durable. After a failure, of this or of a put, what was put since
    /// the last one that passed is forgotten, or not. Where anything else has it forgotten, the next
    /// one fails.
    fn barrier(&self) -> impl Future<Output = Result<(), String>> + Send;

    /// The lowest `limit` ids of a kind in a range, in order.
    fn ids(
        &self,
        kind: ObjectKind,
        range: RangeInclusive<ObjectId>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<ObjectId>, String>> + Send;

    /// The heads, in order.
    fn heads(&self) -> impl Future<Output = Result<Vec<ObjectId>, String>> + Send;

    /// Drops those of `old` that are heads and makes `new` one, durably and in one act.
    fn update_heads(
        &self,
        old: Vec<ObjectId>,
        new: Option<ObjectId>,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// The same where all of `old` are heads; `false` where they are not.
    fn replace_heads(
        &self,
        old: Vec<ObjectId>,
        new: ObjectId,
    ) -> impl Future<Output = Result<bool, String>> + Send;
}

/// Converses with a process that was [granted](crate::Response::Jj) the repo, until it ends. After
/// `stop` nothing new is heard; what was heard before is done and answered.
///
/// # Errors
/// The process does not keep to the form, or the connection fails.
pub async fn serve_jj(
    stream: UnixStream,
    repository: impl Repository,
    stop: &CancellationToken,
) -> Result<(), FrameError> {
    let (reader, writer) = stream.into_split();
    let repository = Arc::new(repository);
    let (answers, to_answer) = unbounded_channel();
    let (changes, to_change) = unbounded_channel();
    let listening = listen(reader, Arc::clone(&repository), changes, answers.clone(), stop);
    let conversation = async {
        let changing = async {
            change(to_change, &*repository, answers).await;
            Ok(())
        };
        tokio::try_join!(listening, changing, answer(writer, to_answer)).map(|_| ())
    };
    tokio::select! {
        ended = conversation => ended,
        () = async { stop.cancelled().await; tokio::time::sleep(FAREWELL).await } => Ok(()),
    }
}

/// A question that writes, its number, and the room that it takes until it is answered.
type Change = (u64, Ask, OwnedSemaphorePermit);
/// An answer likewise.
type Answered = (u64, Answer, OwnedSemaphorePermit);

/// Hears questions, as far as there is room. Reads what they ask for, and passes on what writes.
async fn listen<R: Repository>(
    reader: OwnedReadHalf,
    repository: Arc<R>,
    changes: UnboundedSender<Change>,
    answers: UnboundedSender<Answered>,
    stop: &CancellationToken,
) -> Result<(), FrameError> {
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let places = Arc::new(Semaphore::new(MAX_ANSWERS_AT_ONCE));
    let room = Arc::new(Semaphore::new(MAX_WAITING_BYTES));
    // Reads of a process that is gone end with this.
    let mut reads = JoinSet::new();
    loop {
        let asked = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            asked = read_ask(&mut reader) => asked?,
        };
        let Some((number, ask)) = asked else { return Ok(()) };
        while reads.try_join_next().is_some() {}
        let weight = weight(&ask);
        let acquired = if weight == 0 {
            Arc::clone(&places).acquire_owned().await
        } else {
            let weight = u32::try_from(weight.min(MAX_WAITING_BYTES)).unwrap_or(u32::MAX);
            Arc::clone(&room).acquire_many_owned(weight).await
        };
        let Ok(permit) = acquired else { break };
        if weight > 0 {
            // Nobody hears it where the conversation has ended.
            let _ = changes.send((number, ask, permit));
            continue;
        }
        let (repository, answers) = (Arc::clone(&repository), answers.clone());
        reads.spawn(async move {
            let answer = read(&*repository, ask).await;
            let _ = answers.send((number, answer, permit));
        });
    }
    while reads.join_next().await.is_some() {}
    Ok(())
}

/// The bytes that a question takes while it waits to write; none of one that reads.
fn weight(ask: &Ask) -> usize {
    let ids = |count: usize| FRAME_BYTES + count * size_of::<ObjectId>();
    match ask {
        Ask::Get(_) | Ask::Ids { .. } | Ask::Heads => 0,
        Ask::Put(object) => FRAME_BYTES + object.bytes().len(),
        Ask::Barrier => FRAME_BYTES,
        Ask::UpdateHeads { old, .. } | Ask::ReplaceHeads { old, .. } => ids(old.len()),
    }
}

async fn read(repository: &impl Repository, ask: Ask) -> Answer {
    match ask {
        Ask::Get(link) => match repository.get(link).await {
            Ok(Some(bytes)) => Answer::Object(bytes),
            Ok(None) => Answer::Absent,
            Err(why) => Answer::Failed(why),
        },
        Ask::Ids { kind, range, limit } => {
            repository.ids(kind, range, limit).await.map_or_else(Answer::Failed, Answer::Ids)
        }
        _ => repository.heads().await.map_or_else(Answer::Failed, Answer::Ids),
    }
}

/// Does what writes, in order.
async fn change(
    mut changes: UnboundedReceiver<Change>,
    repository: &impl Repository,
    answers: UnboundedSender<Answered>,
) {
    // Which object the first put was of that failed since the last barrier, and why.
    let mut failed: Option<(Link, PutFailure)> = None;
    while let Some((number, ask, permit)) = changes.recv().await {
        let answer = match ask {
            Ask::Put(object) => {
                if failed.is_none() {
                    let link = object.link();
                    failed = repository.put(object).await.err().map(|why| (link, why));
                }
                continue;
            }
            Ask::Barrier => match failed.take() {
                None => done(repository.barrier().await),
                Some((link, PutFailure::Refused(why))) => Answer::Refused(link, why),
                Some((_, PutFailure::Failed(why))) => Answer::Failed(why),
            },
            ask => match &failed {
                None => change_heads(repository, ask).await,
                // Made by who does not wait for the barrier before it.
                Some((_, PutFailure::Refused(why) | PutFailure::Failed(why))) => {
                    Answer::Failed(why.clone())
                }
            },
        };
        let _ = answers.send((number, answer, permit));
    }
}

async fn change_heads(repository: &impl Repository, ask: Ask) -> Answer {
    match ask {
        Ask::UpdateHeads { old, new } => done(repository.update_heads(old, new).await),
        Ask::ReplaceHeads { old, new } => match repository.replace_heads(old, new).await {
            Ok(true) => Answer::Done,
            Ok(false) => Answer::Changed,
            Err(why) => Answer::Failed(why),
        },
        // Such a one is read for and never comes here.
        _ => Answer::Failed("a question that changes nothing".into()),
    }
}

fn done(result: Result<(), String>) -> Answer {
    result.map_or_else(Answer::Failed, |()| Answer::Done)
}

/// Sends answers, several at once where they are there.
async fn answer(
    writer: OwnedWriteHalf,
    mut answers: UnboundedReceiver<Answered>,
) -> Result<(), FrameError> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
    while let Some((number, answer, permit)) = answers.recv().await {
        write_answer(&mut writer, number, answer).await?;
        drop(permit);
        if answers.is_empty() {
            writer.flush().await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{Notify, watch};

    use super::super::{JjReader, JjWriter, connect_jj};
    use super::*;
    use crate::{Response, read_request, write_response};

    const ASKED: u64 = 2_000;
    /// More answers of 100,000 bytes than a socket and the buffers at its ends hold.
    const IN_SOCKET: usize = 200;

    /// Objects of one size, and a barrier that holds until it is let go.
    struct Held {
        put: Mutex<Vec<ObjectId>>,
        begun: AtomicUsize,
        at_barrier: watch::Sender<bool>,
        let_go: Notify,
    }

    impl Held {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                put: Mutex::default(),
                begun: AtomicUsize::new(0),
                at_barrier: watch::channel(false).0,
                let_go: Notify::new(),
            })
        }
    }

    impl Repository for Arc<Held> {
        async fn get(&self, _link: Link) -> Result<Option<Bytes>, String> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok(Some(Bytes::from(vec![0; 100_000])))
        }

        async fn put(&self, object: Object) -> Result<(), PutFailure> {
            self.put.lock().expect("no panic").push(object.id());
            match object.bytes().as_ref() {
                b"" => Err(PutFailure::Failed("empty".into())),
                b"odd" => Err(PutFailure::Refused("odd".into())),
                _ => Ok(()),
            }
        }

        async fn barrier(&self) -> Result<(), String> {
            self.at_barrier.send_replace(true);
            self.let_go.notified().await;
            Ok(())
        }

        async fn ids(
            &self,
            _kind: ObjectKind,
            _range: RangeInclusive<ObjectId>,
            _limit: usize,
        ) -> Result<Vec<ObjectId>, String> {
            Err("not today".into())
        }

        async fn heads(&self) -> Result<Vec<ObjectId>, String> {
            Ok(Vec::new())
        }

        async fn update_heads(
            &self,
            _old: Vec<ObjectId>,
            _new: Option<ObjectId>,
        ) -> Result<(), String> {
            Ok(())
        }

        async fn replace_heads(&self, _old: Vec<ObjectId>, _new: ObjectId) -> Result<bool, String> {
            Ok(false)
        }
    }

    /// Both ends, and what becomes of the daemon's.
    async fn meet(
        held: &Arc<Held>,
        stop: &CancellationToken,
    ) -> (JjReader, JjWriter, tokio::task::JoinHandle<Result<(), FrameError>>) {
        let store = tempfile::tempdir().expect("a temporary directory");
        let listener = crate::bind(store.path()).expect("a socket");
        let (held, stop) = (Arc::clone(held), stop.clone());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            drop(read_request(&mut stream).await?);
            write_response(&mut stream, &Response::Jj).await?;
            serve_jj(stream, held, &stop).await
        });
        let (reader, writer) = connect_jj(store.path(), "repo").await.expect("a conversation");
        (reader, writer, serving)
    }

    fn object(n: u32) -> Object {
        Object::new(ObjectKind::Raw, n.to_le_bytes().to_vec())
    }

    #[tokio::test]
    async fn at_the_end_what_was_heard_is_done_and_answered() {
        let (held, stop) = (Held::new(), CancellationToken::new());
        let (mut reader, mut writer, serving) = meet(&held, &stop).await;
        writer.ask(1, &Ask::Put(object(1))).await.expect("sent");
        writer.ask(2, &Ask::Barrier).await.expect("sent");
        writer.flush().await.expect("sent");
        let mut at_barrier = held.at_barrier.subscribe();
        at_barrier.wait_for(|is_there| *is_there).await.expect("a barrier");
        // Others are read for meanwhile.
        writer.ask(3, &Ask::Heads).await.expect("sent");
        writer.flush().await.expect("sent");
        assert_eq!(reader.next().await.expect("an answer"), Some((3, Answer::Ids(Vec::new()))));
        stop.cancel();
        held.let_go.notify_one();
        assert_eq!(reader.next().await.expect("an answer"), Some((2, Answer::Done)));
        assert_eq!(reader.next().await.expect("the end"), None);
        serving.await.expect("no panic").expect("an orderly end");
    }

    #[tokio::test]
    async fn a_put_that_failed_is_told_by_the_next_barrier_alone() {
        let (held, stop) = (Held::new(), CancellationToken::new());
        let (mut reader, mut writer, _serving) = meet(&held, &stop).await;
        held.let_go.notify_one();
        let empty = Object::new(ObjectKind::Raw, Vec::new());
        let id = ObjectId::from_bytes([1; 32]);
        let asks = [
            Ask::Put(empty),
            Ask::Put(object(1)),
            Ask::UpdateHeads { old: vec![id], new: None },
            Ask::Barrier,
            Ask::ReplaceHeads { old: vec![id], new: id },
            Ask::Put(object(2)),
            Ask::Barrier,
            Ask::UpdateHeads { old: vec![id], new: None },
        ];
        for (number, ask) in (0..).zip(&asks) {
            writer.ask(number, ask).await.expect("sent");
        }
        writer.flush().await.expect("sent");
        let failed = || Answer::Failed("empty".into());
        let expected = [(2, failed()), (3, failed()), (4, Answer::Changed), (6, Answer::Done)];
        for answer in expected.into_iter().chain([(7, Answer::Done)]) {
            assert_eq!(reader.next().await.expect("an answer"), Some(answer));
        }
        assert_eq!(
            held.put.lock().expect("no panic").len(),
            2,
            "what follows a failure is not put"
        );
        let range = id..=id;
        let ask = Ask::Ids { kind: ObjectKind::Raw, range, limit: 1 };
        writer.ask(8, &ask).await.expect("sent");
        writer.flush().await.expect("sent");
        let failed = Answer::Failed("not today".into());
        assert_eq!(reader.next().await.expect("an answer"), Some((8, failed)));
        // One that is never taken in is named.
        let odd = Object::new(ObjectKind::Raw, b"odd".to_vec());
        let link = odd.link();
        for (number, ask) in [(9, Ask::Put(odd)), (10, Ask::Barrier)] {
            writer.ask(number, &ask).await.expect("sent");
        }
        writer.flush().await.expect("sent");
        let refused = Answer::Refused(link, "odd".into());
        assert_eq!(reader.next().await.expect("an answer"), Some((10, refused)));
    }

    #[tokio::test]
    async fn who_does_not_read_answers_is_not_read_from() {
        let (held, stop) = (Held::new(), CancellationToken::new());
        let (mut reader, mut writer, serving) = meet(&held, &stop).await;
        let asking = tokio::spawn(async move {
            for number in 0..ASKED {
                writer.ask(number, &Ask::Get(object(0).link())).await.expect("sent");
                writer.flush().await.expect("sent");
            }
            writer
        });
        // Everything here is on one thread: whoever can go on does so meanwhile.
        while held.begun.load(Ordering::SeqCst) < MAX_ANSWERS_AT_ONCE {
            tokio::task::yield_now().await;
        }
        for _ in 0..20_000 {
            tokio::task::yield_now().await;
        }
        // All are answered once somebody reads; never were more held than may be.
        let mut numbers = std::collections::BTreeSet::new();
        let total = usize::try_from(ASKED).expect("small");
        while numbers.len() < total {
            let begun = held.begun.load(Ordering::SeqCst);
            assert!(begun <= numbers.len() + MAX_ANSWERS_AT_ONCE + IN_SOCKET, "{begun}");
            let (number, answer) = reader.next().await.expect("an answer").expect("an answer");
            assert!(matches!(answer, Answer::Object(bytes) if bytes.len() == 100_000));
            numbers.insert(number);
        }
        assert_eq!(held.begun.load(Ordering::SeqCst), total);
        drop((reader, asking.await.expect("no panic")));
        serving.await.expect("no panic").expect("an orderly end");
    }
}
