//! The messages of a session, each one frame: an rkyv archive (little endian, unaligned, 32-bit
//! pointers). What is decoded was of bounded length, validated, obeys the rules said here and
//! encodes back to the same bytes.
//!
//! The opener's first frame is an [`Opening`], all others are [`Message`]s. It asks with that, with
//! [`Message::Compare`], [`Message::More`] and [`Message::Want`]; each is answered by one or more
//! [`Message::Answer`]s, in the order of the questions. So are [`Message::MoreKept`] and
//! [`Message::WantKept`], which follow on [`Part::Kept`].

use rkyv::rancor::Error as ArchiveError;
use rkyv::{Archive, Deserialize, Serialize};

use crate::prefix::{MAX_PREFIX_BITS, Prefix};

/// The most bytes of a frame.
pub const MAX_FRAME_BYTES: usize = 64 << 10;
/// The most tags of a [`Message::Compare`]: 8 KiB of them.
pub const MAX_TAGS: usize = 1024;
/// The most short ids of a [`Message::Want`], and of a bucket that is listed: half a frame.
pub const MAX_SHORT_IDS: usize = 4096;
/// The most links of a frame: 62 KiB of them.
pub const MAX_FRAME_LINKS: usize = 1900;
/// The most cells of one [`Part::Cells`]: 56 KiB of them.
pub const MAX_PART_CELLS: usize = 4096;
/// The most cells that are given of one group. One that needs more is divided instead.
pub const MAX_GROUP_CELLS: u16 = 1 << 14;
/// The cells that are kept of a whole set: enough for 16,384 expected differences.
pub const KEPT_CELLS: u16 = 23_000;
/// The most differences to expect of two sets, for kept cells to be enough: more than the ten
/// thousand that are to cost what they are, not what the sets are.
pub(crate) const MAX_KEPT_DIFFERENCES: f64 = 16_384.0;
/// The most groups at a time: what both sides hold of cells is bounded by it.
pub const MAX_GROUPS: u8 = 4;

/// What the opener has, in short: sets that are the same cost little more than its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Opening {
    /// How many links, modulo 2^32.
    pub count: u32,
    /// The tag over all buckets: by it alone sets are taken to be the same.
    pub whole: [u8; 8],
    /// The short tags of the buckets, which are the prefixes of some length, in order: their
    /// number is a power of two, at most [`MAX_TAGS`]. Which of two that are equal differ all the
    /// same is told by [`Part::Rest`].
    pub tags: Vec<[u8; 2]>,
}

/// What one side tells the other.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Message {
    /// What the opener has. Strictly increasing and not overlapping, at most [`MAX_TAGS`] tags.
    Compare(Vec<Compared>),
    /// Asks for more cells of a group.
    More(Box<More>),
    /// Asks for the links with these short ids. Some, strictly increasing, at most
    /// [`MAX_SHORT_IDS`].
    Want(Vec<u64>),
    /// Links that the opener has and the answerer lacks, as bytes: the id, then the kind's
    /// number. Some, strictly increasing, at most [`MAX_FRAME_LINKS`]. It is not answered.
    Offer(Vec<[u8; 33]>),
    /// The opener asks no more, every difference was found: the last links, or none, as in
    /// [`Message::Offer`].
    End(Vec<[u8; 33]>),
    /// The opener asks no more, though not every difference was found.
    Incomplete,
    /// To the oldest question that is not answered.
    Answer(Answer),
    /// Where the answer to the opening had kept cells, asks for those that come after what was
    /// given: up to so many in all, at most [`KEPT_CELLS`].
    MoreKept(u16),
    /// As [`Message::Want`], by the short ids of kept cells.
    WantKept(Vec<u64>),
}

/// Asks for some cells over what is under all of the prefixes.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct More {
    /// The buckets of the group: some, strictly increasing and not overlapping.
    pub prefixes: Vec<Prefix>,
    /// The first cell.
    pub from: u16,
    /// The cell after the last, at most [`MAX_GROUP_CELLS`].
    pub to: u16,
}

/// An answer, or part of one.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Answer {
    /// What is said.
    pub parts: Vec<Part>,
    /// Whether the answer ends here.
    pub last: bool,
}

/// What the opener has under a prefix.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Compared {
    /// The prefix.
    pub prefix: Prefix,
    /// How many links.
    pub count: u64,
    /// The tags of the prefixes that are some bits longer, in order: their number is a power of
    /// two. These are the buckets.
    pub tags: Vec<[u8; 8]>,
}

/// A part of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub enum Part {
    /// To an [`Opening`] that differs, first: the tag over those of its buckets that no verdict is
    /// about, in order.
    Rest([u8; 8]),
    /// Then, to the same: buckets in which the answerer has, by the counts, one link more and
    /// differs in nothing else. Some, strictly increasing by `at`.
    OneMore(Vec<OneMore>),
    /// Then, to the same: a bucket in which it has one link less.
    OneLess(OneLess),
    /// Then, and first in answers to [`Message::Compare`]: which buckets differ. Strictly
    /// increasing by `at`.
    Verdicts(Vec<Verdict>),
    /// Then, for each bucket with [`What::Listed`] in order, all of its short ids there, strictly
    /// increasing, at most [`MAX_SHORT_IDS`].
    Listed(Vec<u64>),
    /// Then, for each group in order, its first cells; to [`Message::More`], the cells asked for.
    /// Long rows come in several parts.
    Cells(Cells),
    /// To [`Message::Want`] and [`Message::WantKept`]: links, as in [`Message::Offer`].
    Links(Vec<[u8; 33]>),
    /// In answers to an [`Opening`] instead of verdicts: the first cells of the row over all that
    /// the answerer has, by the key that is the same in all sessions of a repo; the links that
    /// buckets are said to differ in are in it. As that key can be known to who makes objects,
    /// what these cells say is true only if [`Part::Rest`], which is then about all buckets, fits
    /// the set that they give. To [`Message::MoreKept`], the cells asked for. Each and in parts as
    /// in [`Part::Cells`].
    Kept(Vec<[u8; 14]>),
}

/// A bucket in which the answerer has one link more.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct OneMore {
    /// The bucket, counted over all tags of the question.
    pub at: u16,
    /// The XOR of all its links there, as bytes. If it is as said, what all of the opener's
    /// leave of this is that link; whether it is says [`Part::Rest`].
    pub sum: [u8; 33],
}

/// A bucket in which the answerer has one link less.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct OneLess {
    /// The bucket, counted over all tags of the question.
    pub at: u16,
    /// As in [`OneMore`], but the first bytes only, by which the opener finds its link.
    pub sum: [u8; 7],
}

/// Cells of a group, in order.
#[derive(Clone, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Cells {
    /// The group's number; 0 in answers to [`Message::More`].
    pub group: u8,
    /// Each the XOR of 64-bit short ids, the XOR of their 40-bit checks, and their number modulo
    /// 256. Some, at most [`MAX_PART_CELLS`].
    pub cells: Vec<[u8; 14]>,
}

/// That a bucket differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
pub struct Verdict {
    /// The bucket, counted over all tags of the question.
    pub at: u16,
    /// What is said about it.
    pub what: What,
}

/// What is said about a bucket that differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Archive, Serialize, Deserialize)]
#[repr(u8)]
pub enum What {
    /// Nothing now: the answer is long enough. To be asked again.
    Later,
    /// Too much for one answer: to be compared one level down.
    Deeper,
    /// Its short ids follow.
    Listed,
    /// It is in the group with this number, whose cells follow. Below [`MAX_GROUPS`].
    Group(u8),
}

/// A frame that is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// More bytes than a frame may have.
    #[error("a frame of {length} bytes, more than {MAX_FRAME_BYTES}")]
    TooLong {
        /// Bytes found.
        length: usize,
    },
    /// Not a valid archive.
    #[error("not a valid archive: {0}")]
    Archive(String),
    /// A valid archive that says what no message may say.
    #[error("{0}")]
    Invalid(&'static str),
    /// Valid, but not the one encoding that it may have.
    #[error("not in canonical form")]
    NotCanonical,
}

/// Decodes strictly what `encode` makes of what is valid.
fn decoded<T>(
    bytes: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, ArchiveError>,
    validate: impl FnOnce(&T) -> Result<(), &'static str>,
    encode: impl FnOnce(&T) -> Vec<u8>,
) -> Result<T, WireError> {
    if bytes.len() > MAX_FRAME_BYTES {
        return Err(WireError::TooLong { length: bytes.len() });
    }
    let message = read(bytes).map_err(|error| WireError::Archive(error.to_string()))?;
    validate(&message).map_err(WireError::Invalid)?;
    if encode(&message) != bytes {
        return Err(WireError::NotCanonical);
    }
    Ok(message)
}

impl Opening {
    /// The encoding, without the frame's length.
    pub fn encode(&self) -> Vec<u8> {
        rkyv::to_bytes::<ArchiveError>(self)
            .expect("an archive of bounded size fits 32-bit pointers")
            .into_vec()
    }

    /// Decodes a frame: strictly what [`Opening::encode`] makes of a valid one.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decoded(bytes, rkyv::from_bytes::<Self, ArchiveError>, Self::validate, Self::encode)
    }

    /// By how many bits its buckets are longer than nothing.
    pub(crate) fn bits(&self) -> u8 {
        fan_of(self.tags.len())
    }

    fn validate(&self) -> Result<(), &'static str> {
        if !self.tags.len().is_power_of_two() || self.tags.len() > MAX_TAGS {
            return Err("an opening with too many tags, or not a power of two");
        }
        Ok(())
    }
}

/// Into how many tags a prefix is divided, in bits.
fn fan_of(tags: usize) -> u8 {
    u8::try_from(tags.ilog2()).expect("fewer bits than a length has")
}

impl Message {
    /// The encoding, without the frame's length.
    pub fn encode(&self) -> Vec<u8> {
        rkyv::to_bytes::<ArchiveError>(self)
            .expect("an archive of bounded size fits 32-bit pointers")
            .into_vec()
    }

    /// Decodes a frame: strictly what [`Message::encode`] makes of a valid message.
    ///
    /// # Errors
    /// Anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        decoded(bytes, rkyv::from_bytes::<Self, ArchiveError>, Self::validate, Self::encode)
    }

    /// The rules that the archive's validator does not know.
    fn validate(&self) -> Result<(), &'static str> {
        match self {
            Self::Compare(spans) => {
                if spans.is_empty() || !spans.iter().all(Compared::is_valid) {
                    return Err("a comparison of nothing, or with invalid parts");
                }
                if spans.iter().map(|span| span.tags.len()).sum::<usize>() > MAX_TAGS {
                    return Err("a comparison with too many tags");
                }
                disjoint(spans.iter().map(|span| span.prefix))
            }
            Self::More(more) => {
                let More { prefixes, from, to } = &**more;
                let valid = prefixes.iter().all(|prefix| prefix.is_valid());
                if prefixes.is_empty() || prefixes.len() > MAX_TAGS || !valid {
                    return Err("cells of no group, or of an invalid one");
                }
                if from >= to || *to > MAX_GROUP_CELLS {
                    return Err("no cells, or too many");
                }
                disjoint(prefixes.iter().copied())
            }
            Self::Want(ids) | Self::WantKept(ids) if ids.is_empty() => Err("a wish for nothing"),
            Self::Want(ids) | Self::WantKept(ids) => ascending(ids, MAX_SHORT_IDS),
            Self::MoreKept(to) if *to > KEPT_CELLS => Err("more cells than are kept"),
            Self::Offer(links) => are_links(links),
            Self::End(links) if !links.is_empty() => are_links(links),
            Self::End(_) | Self::Incomplete | Self::MoreKept(_) => Ok(()),
            Self::Answer(answer) => answer.parts.iter().try_for_each(Part::validate),
        }
    }
}

impl Compared {
    /// By how many bits its buckets are longer.
    pub(crate) fn fan(&self) -> u8 {
        fan_of(self.tags.len())
    }

    fn is_valid(&self) -> bool {
        self.prefix.is_valid()
            && self.tags.len().is_power_of_two()
            && self.tags.len() <= MAX_TAGS
            && self.prefix.bits() + self.fan() <= MAX_PREFIX_BITS
    }
}

impl Part {
    fn validate(&self) -> Result<(), &'static str> {
        match self {
            Self::OneMore(buckets) => {
                if buckets.is_empty() || buckets.len() > MAX_TAGS {
                    return Err("no buckets with one link more, or too many");
                }
                if !buckets.is_sorted_by(|a, b| a.at < b.at) {
                    return Err("buckets out of order");
                }
                Ok(())
            }
            Self::Verdicts(verdicts) => {
                let known = |verdict: &Verdict| match verdict.what {
                    What::Group(group) => group < MAX_GROUPS,
                    What::Later | What::Deeper | What::Listed => true,
                };
                if verdicts.len() > MAX_TAGS || !verdicts.iter().all(known) {
                    return Err("too many verdicts, or a group of too high a number");
                }
                if !verdicts.is_sorted_by(|a, b| a.at < b.at) {
                    return Err("verdicts out of order");
                }
                Ok(())
            }
            Self::Listed(ids) => ascending(ids, MAX_SHORT_IDS),
            Self::Cells(Cells { group, cells }) => {
                if *group >= MAX_GROUPS || cells.is_empty() || cells.len() > MAX_PART_CELLS {
                    return Err("no cells, too many, or of a group of too high a number");
                }
                Ok(())
            }
            Self::Links(links) => are_links(links),
            Self::Kept(cells) if cells.is_empty() || cells.len() > MAX_PART_CELLS => {
                Err("no kept cells, or too many")
            }
            Self::Rest(_) | Self::OneLess(_) | Self::Kept(_) => Ok(()),
        }
    }
}

fn disjoint(prefixes: impl Iterator<Item = Prefix> + Clone) -> Result<(), &'static str> {
    let mut next = prefixes.clone().skip(1).zip(prefixes);
    if next.any(|(prefix, before)| prefix.start() <= before.last_start()) {
        return Err("prefixes that overlap or are out of order");
    }
    Ok(())
}

fn ascending(ids: &[u64], limit: usize) -> Result<(), &'static str> {
    if ids.len() > limit || !ids.is_sorted_by(|a, b| a < b) {
        return Err("too many short ids, or out of order");
    }
    Ok(())
}

fn are_links(links: &[[u8; 33]]) -> Result<(), &'static str> {
    let known = |link: &[u8; 33]| ark_core::ObjectKind::from_u8(link[32]).is_some();
    if links.is_empty() || links.len() > MAX_FRAME_LINKS || !links.iter().all(known) {
        return Err("no links, too many, or of an unknown kind");
    }
    if !links.is_sorted_by(|a, b| a < b) {
        return Err("links out of order");
    }
    Ok(())
}
