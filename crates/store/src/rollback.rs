//! Proof that a store is the one last open. A store put back from a copy would use sequences
//! twice, which loses data; a new incarnation loses none. So the incarnation goes on only where
//! index and witness agree and the index is the file it was.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use ark_core::{DeviceId, Incarnation};
use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use crate::error::IndexError;
use crate::index::META;
use crate::store::NewIncarnation;

/// Drawn at each opening.
type Token = [u8; 32];

/// First line of the witness file.
const WITNESS_HEADER: &str = "ark witness 1";
/// No witness is longer: a longer file is none.
const MAX_WITNESS_BYTES: u64 = 4096;

/// Keys of [`META`].
const DEVICE: &str = "device";
const INCARNATION: &str = "incarnation";
/// Incarnations that this device was and that others write as, too: eight bytes each, the last ones.
const FORKED: &str = "forked";
/// The most of those that are remembered: each was left because of a machine put back, or a key
/// that ran twice.
const MAX_FORKED: usize = 256;
const FILE: &str = "file";
/// The tokens of which the witness must hold one: that of this opening, and that which it held
/// before, in case the process ends between the index's commit and the witness.
const TOKENS: &str = "tokens";

/// What tells the index file from a copy of it: inode and, where the system knows it, birth
/// time in nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FileIdentity {
    inode: u64,
    birth_ns: u128,
}

impl FileIdentity {
    /// The identity of the file at `path`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let birth = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Self { inode: metadata.ino(), birth_ns: birth.map_or(0, |birth| birth.as_nanos()) })
    }

    fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.inode.to_le_bytes());
        bytes[8..].copy_from_slice(&self.birth_ns.to_le_bytes());
        bytes
    }
}

/// What the index says of itself; parts are absent in a new one.
#[derive(Debug, Default)]
pub(crate) struct Record {
    device: Option<[u8; 32]>,
    pub(crate) incarnation: Option<Incarnation>,
    file: Option<[u8; 24]>,
    /// This opening's, then what the witness held before it.
    tokens: Option<[u8; 64]>,
}

fn field<const N: usize>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<[u8; N]>, IndexError> {
    match table.get(key)? {
        Some(value) => {
            let value = value.value().try_into();
            value.map(Some).map_err(|_| IndexError::Damaged { table: "meta" })
        }
        None => Ok(None),
    }
}

impl Record {
    /// Reads the record.
    pub(crate) fn read(transaction: &ReadTransaction) -> Result<Self, IndexError> {
        let table = transaction.open_table(META)?;
        Ok(Self {
            device: field(&table, DEVICE)?,
            incarnation: incarnation(&table)?,
            file: field(&table, FILE)?,
            tokens: field(&table, TOKENS)?,
        })
    }

    /// Whether the store is the one last open by this device; if not, why not.
    pub(crate) fn judge(
        &self,
        device: DeviceId,
        file: FileIdentity,
        witness: &Witness,
    ) -> Result<Incarnation, NewIncarnation> {
        let (Some(incarnation), Some(tokens)) = (self.incarnation, self.tokens) else {
            return Err(NewIncarnation::NewStore);
        };
        if self.device != Some(*device.as_bytes()) {
            return Err(NewIncarnation::OtherDevice);
        }
        if self.file != Some(file.to_bytes()) {
            return Err(NewIncarnation::OtherFile);
        }
        match witness.token() {
            None => Err(NewIncarnation::NoWitness),
            Some(token) if tokens.chunks(32).any(|known| known == token) => Ok(incarnation),
            Some(_) => Err(NewIncarnation::OtherToken),
        }
    }

    /// Records this opening under a new token, which the witness is to hold next.
    pub(crate) fn renew(
        transaction: &WriteTransaction,
        device: DeviceId,
        incarnation: Incarnation,
        file: FileIdentity,
        witness: &Witness,
        token: &Token,
    ) -> Result<(), IndexError> {
        let mut table = transaction.open_table(META)?;
        let mut tokens = [0; 64];
        tokens[..32].copy_from_slice(token);
        tokens[32..].copy_from_slice(witness.token().unwrap_or(token));
        table.insert(DEVICE, device.as_bytes().as_slice())?;
        table.insert(FILE, file.to_bytes().as_slice())?;
        table.insert(TOKENS, tokens.as_slice())?;
        drop(table);
        set_incarnation(transaction, incarnation)
    }
}

fn incarnation(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Option<Incarnation>, IndexError> {
    Ok(field(table, INCARNATION)?.map(|bytes| Incarnation::new(u64::from_le_bytes(bytes))))
}

/// The living incarnation, as of `transaction`.
pub(crate) fn living_incarnation(
    transaction: &WriteTransaction,
) -> Result<Option<Incarnation>, IndexError> {
    incarnation(&transaction.open_table(META)?)
}

/// Makes `incarnation` the living one.
pub(crate) fn set_incarnation(
    transaction: &WriteTransaction,
    incarnation: Incarnation,
) -> Result<(), IndexError> {
    let mut table = transaction.open_table(META)?;
    table.insert(INCARNATION, incarnation.get().to_le_bytes().as_slice())?;
    Ok(())
}

/// Makes `incarnation` the living one in the place of `old`, which others write as, too.
pub(crate) fn fork(
    transaction: &WriteTransaction,
    old: Incarnation,
    incarnation: Incarnation,
) -> Result<(), IndexError> {
    let mut table = transaction.open_table(META)?;
    let mut forked = forked(&table)?;
    forked.push(old);
    let first = forked.len().saturating_sub(MAX_FORKED);
    let numbers: Vec<u8> = forked[first..].iter().flat_map(|it| it.get().to_le_bytes()).collect();
    table.insert(FORKED, numbers.as_slice())?;
    drop(table);
    set_incarnation(transaction, incarnation)
}

/// Whether others write as this incarnation of the device, too.
pub(crate) fn is_forked(
    transaction: &ReadTransaction,
    incarnation: Incarnation,
) -> Result<bool, IndexError> {
    Ok(forked(&transaction.open_table(META)?)?.contains(&incarnation))
}

fn forked(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<Vec<Incarnation>, IndexError> {
    let Some(row) = table.get(FORKED)? else { return Ok(Vec::new()) };
    let (numbers, rest) = row.value().as_chunks();
    if !rest.is_empty() {
        return Err(IndexError::Damaged { table: "meta" });
    }
    Ok(numbers.iter().map(|number| Incarnation::new(u64::from_le_bytes(*number))).collect())
}

/// A new incarnation: random, so that no two copies of a store draw the same.
pub(crate) fn draw_incarnation() -> Incarnation {
    Incarnation::new(rand::random())
}

/// A new token.
pub(crate) fn draw_token() -> Token {
    rand::random()
}

/// The file outside the store that says which opening was the last.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    path: PathBuf,
    token: Option<Token>,
}

impl Witness {
    /// Reads the witness of `device`. What is not a witness is none.
    pub(crate) fn read(directory: &Path, device: DeviceId) -> io::Result<Self> {
        let path = directory.join(device.to_string());
        let token = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > MAX_WITNESS_BYTES => None,
            Ok(_) => parse(&fs::read(&path)?),
        };
        Ok(Self { path, token })
    }

    fn token(&self) -> Option<&[u8]> {
        self.token.as_ref().map(<[u8; 32]>::as_slice)
    }

    /// Replaces the witness, durably: the old one or the new one is there, whatever happens.
    pub(crate) fn renew(&self, token: &Token) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        // As an id is written: 32 bytes in hex.
        let token = ark_core::ObjectId::from_bytes(*token);
        file.write_all(format!("{WITNESS_HEADER}\n{token}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        match self.path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Token> {
    let mut lines = std::str::from_utf8(bytes).ok()?.lines();
    if lines.next()? != WITNESS_HEADER {
        return None;
    }
    let id: ark_core::ObjectId = lines.next()?.parse().ok()?;
    Some(*id.as_bytes())
}
