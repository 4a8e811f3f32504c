//! The tables of the index and their keys. Every name carries the version of its table.

use ark_core::{DeviceId, Incarnation, Link, ObjectId, TopicId, Writer};
use ark_recon::Prefix;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::error::IndexError;

/// The format of the store as a whole: raised when an older ark must not touch it. Since 2 there
/// may be objects of jj repos, which an ark of before takes for damage; nothing else is different.
pub(crate) const FORMAT_VERSION: u64 = 2;
/// The key of the one record of [`FORMAT`].
const FORMAT_KEY: &str = "store";

/// A topic's number in the index: shorter than its id, because it stands in every key.
pub(crate) type TopicNumber = u32;

/// The format record. This table never changes its shape: every version of ark must be able to
/// read it.
pub(crate) const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
/// Small records of the store: see [`crate::rollback`].
pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta/1");
/// Topic id -> number, and a byte that says nothing any more: the joined states say what kind of
/// repo it is.
pub(crate) const TOPICS: TableDefinition<&[u8; 32], (TopicNumber, u8)> =
    TableDefinition::new("topics/1");
/// What a repo has indexed -> the object's summary.
pub(crate) const OBJECTS: TableDefinition<&ObjectKey, &[u8]> = TableDefinition::new("objects/1");
/// What a repo has received and cannot index yet; the bytes are in the blob store.
pub(crate) const PENDING: TableDefinition<&ObjectKey, ()> = TableDefinition::new("pending/1");
/// What a repo's heads reach -> how many links of it lead there: see [`crate::trie`].
pub(crate) const LINKS: TableDefinition<&ObjectKey, u32> = TableDefinition::new("links/1");
/// The trie over [`LINKS`].
pub(crate) const NODES: TableDefinition<&NodeKey, &[u8]> = TableDefinition::new("nodes/1");
/// Topic number -> the heads that [`LINKS`] is of.
pub(crate) const ROOTS: TableDefinition<TopicNumber, &[u8]> = TableDefinition::new("roots/1");
/// Signed states, verbatim, by topic, slot and writer.
pub(crate) const STATES: TableDefinition<&StateKey, &[u8]> = TableDefinition::new("states/1");
/// Topic and incarnation -> the highest revision and sequence that this device issued or burnt.
pub(crate) const ISSUED: TableDefinition<&IssuedKey, (u64, u64)> = TableDefinition::new("issued/1");
/// Topic, writer, revision -> the hash that stands, the hash that was dropped.
pub(crate) const EQUIVOCATIONS: TableDefinition<&EquivocationKey, &[u8; 64]> =
    TableDefinition::new("equivocations/1");
/// The folder's base: topic, then the folder's key.
pub(crate) const BASE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("base/1");
/// Small named records beside the base: topic, then the name.
pub(crate) const BASE_META: TableDefinition<&[u8], &[u8]> = TableDefinition::new("base_meta/1");

/// Topic number, id, kind.
pub(crate) type ObjectKey = [u8; 4 + 32 + 1];
/// Topic number, prefix.
pub(crate) type NodeKey = [u8; 4 + 9];
/// Topic number, slot, device, incarnation.
pub(crate) type StateKey = [u8; 4 + 1 + 32 + 8];
/// Topic number, incarnation.
pub(crate) type IssuedKey = [u8; 4 + 8];
/// Topic number, device, incarnation, revision.
pub(crate) type EquivocationKey = [u8; 4 + 32 + 8 + 8];

/// Which of a writer's states a row of [`STATES`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Slot {
    Joined = 0,
    Staged = 1,
}

impl Slot {
    pub(crate) fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Joined),
            1 => Some(Self::Staged),
            _ => None,
        }
    }
}

/// Joins fixed parts into a fixed key. Numbers are big-endian, so that keys sort by them.
fn joined<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut key = [0; N];
    let mut at = 0;
    for part in parts {
        key[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    debug_assert_eq!(at, N);
    key
}

pub(crate) fn object_key(topic: TopicNumber, link: Link) -> ObjectKey {
    joined(&[&topic.to_be_bytes(), link.id.as_bytes(), &[link.kind as u8]])
}

/// The id and the number of the kind in a key of objects or links.
pub(crate) fn id_in(key: &ObjectKey) -> (ObjectId, u8) {
    let mut id = [0; 32];
    id.copy_from_slice(&key[4..36]);
    (ObjectId::from_bytes(id), key[36])
}

/// The keys that `id` may have in a topic, as whatever kind.
pub(crate) fn object_keys(topic: TopicNumber, id: ObjectId) -> (ObjectKey, ObjectKey) {
    let key = |kind: u8| joined(&[&topic.to_be_bytes(), id.as_bytes(), &[kind]]);
    (key(0), key(u8::MAX))
}

pub(crate) fn node_key(topic: TopicNumber, prefix: Prefix) -> NodeKey {
    joined(&[&topic.to_be_bytes(), &prefix.to_key()])
}

/// The keys that a topic's states in a slot may have.
pub(crate) fn state_keys(topic: TopicNumber, slot: Slot) -> (StateKey, StateKey) {
    let key = |fill: u8| joined(&[&topic.to_be_bytes(), &[slot as u8], &[fill; 40]]);
    (key(0), key(u8::MAX))
}

pub(crate) fn state_key(topic: TopicNumber, slot: Slot, writer: Writer) -> StateKey {
    joined(&[
        &topic.to_be_bytes(),
        &[slot as u8],
        writer.device.as_bytes(),
        &writer.incarnation.get().to_be_bytes(),
    ])
}

/// The writer in a key of [`STATES`].
pub(crate) fn writer_in(key: &StateKey) -> Writer {
    let (mut device, mut incarnation) = ([0; 32], [0; 8]);
    device.copy_from_slice(&key[5..37]);
    incarnation.copy_from_slice(&key[37..]);
    let incarnation = Incarnation::new(u64::from_be_bytes(incarnation));
    Writer { device: DeviceId::from_bytes(device), incarnation }
}

pub(crate) fn issued_key(topic: TopicNumber, writer: Writer) -> IssuedKey {
    joined(&[&topic.to_be_bytes(), &writer.incarnation.get().to_be_bytes()])
}

pub(crate) fn equivocation_key(
    topic: TopicNumber,
    writer: Writer,
    revision: u64,
) -> EquivocationKey {
    joined(&[
        &topic.to_be_bytes(),
        writer.device.as_bytes(),
        &writer.incarnation.get().to_be_bytes(),
        &revision.to_be_bytes(),
    ])
}

pub(crate) fn base_key(topic: TopicNumber, key: &[u8]) -> Vec<u8> {
    [&topic.to_be_bytes(), key].concat()
}

/// Makes every table, so that reads find them, and the format record where there is none.
pub(crate) fn create_tables(transaction: &WriteTransaction) -> Result<(), IndexError> {
    {
        let mut format = transaction.open_table(FORMAT)?;
        let found = format.get(FORMAT_KEY)?.map(|found| found.value());
        if found.is_none_or(|found| found < FORMAT_VERSION) {
            format.insert(FORMAT_KEY, FORMAT_VERSION)?;
        }
    }
    transaction.open_table(META)?;
    transaction.open_table(TOPICS)?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(PENDING)?;
    transaction.open_table(LINKS)?;
    transaction.open_table(NODES)?;
    transaction.open_table(ROOTS)?;
    transaction.open_table(STATES)?;
    transaction.open_table(ISSUED)?;
    transaction.open_table(EQUIVOCATIONS)?;
    transaction.open_table(BASE)?;
    transaction.open_table(BASE_META)?;
    Ok(())
}

/// Empties what a rebuild fills.
pub(crate) fn clear_objects_and_states(transaction: &WriteTransaction) -> Result<(), IndexError> {
    transaction.delete_table(OBJECTS)?;
    transaction.delete_table(PENDING)?;
    transaction.delete_table(LINKS)?;
    transaction.delete_table(NODES)?;
    transaction.delete_table(ROOTS)?;
    transaction.delete_table(STATES)?;
    create_tables(transaction)
}

/// The format that the store says it has; `None` if it says nothing, as a new file does.
pub(crate) fn newest_format(
    transaction: &redb::ReadTransaction,
) -> Result<Option<u64>, IndexError> {
    match transaction.open_table(FORMAT) {
        Ok(table) => Ok(table.get(FORMAT_KEY)?.map(|value| value.value())),
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The row of `topic`, made now if it had none.
pub(crate) fn number_topic(
    transaction: &WriteTransaction,
    topic: TopicId,
) -> Result<(TopicNumber, u8), IndexError> {
    let mut table = transaction.open_table(TOPICS)?;
    if let Some(found) = table.get(topic.as_bytes())? {
        return Ok(found.value());
    }
    let mut next = 0;
    for row in table.iter()? {
        next = next.max(row?.1.value().0 + 1);
    }
    table.insert(topic.as_bytes(), (next, 0))?;
    Ok((next, 0))
}
