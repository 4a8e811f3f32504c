//! The key of a session, and what is derived with it: tags of prefixes and short ids of links.
//!
//! They mean something in one session only, but for the short ids of a sketch. Who makes objects cannot look for two that share a
//! tag or a short id, since the key is not known before; and should two collide by chance, the
//! next session's key parts them.
//!
//! The short ids in a [`Sketch`](crate::Sketch) are of a key that all sessions of a repo share:
//! nothing is believed that is only said by those.

use ark_core::{Link, TopicId};

use crate::prefix::Prefix;
use crate::trie::{Digest, link_bytes};

/// Contexts of the keys; part of the protocol.
const SESSION_CONTEXT: &str = "ark recon session v1";
const TAG_CONTEXT: &str = "ark recon tag v1";
const SHORT_CONTEXT: &str = "ark recon short id v1";
const MIX_CONTEXT: &str = "ark recon cells v1";
const KEPT_CONTEXT: &str = "ark recon kept cells v1";

/// The key of one session, the same on both sides.
#[derive(Clone)]
pub struct SessionKey {
    tag: [u8; 32],
    /// For what only this session says.
    pub(crate) names: NameKey,
    /// For what is kept.
    pub(crate) kept: NameKey,
}

/// The key of short ids, and of cells over them.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct NameKey {
    short: [u8; 32],
    /// For the places and checks of cells.
    pub(crate) mix: [u64; 2],
}

impl NameKey {
    /// The one of all sessions of a repo.
    pub(crate) fn kept(topic: TopicId) -> Self {
        Self::of(&blake3::derive_key(KEPT_CONTEXT, topic.as_bytes()))
    }

    fn of(key: &[u8; 32]) -> Self {
        let mix = blake3::derive_key(MIX_CONTEXT, key);
        let (words, _) = mix.as_chunks();
        Self {
            short: blake3::derive_key(SHORT_CONTEXT, key),
            mix: [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])],
        }
    }

    /// The short id of `link`: the first 16 bits of its id, by which it is found again, then 48
    /// bits of the keyed hash of the whole.
    pub(crate) fn short_id(&self, link: Link) -> ShortId {
        let hash = blake3::keyed_hash(&self.short, &link_bytes(link));
        let mut short = [0; 8];
        short[..2].copy_from_slice(&link.id.as_bytes()[..2]);
        short[2..].copy_from_slice(&hash.as_bytes()[..6]);
        ShortId(u64::from_be_bytes(short))
    }
}

impl std::fmt::Debug for NameKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NameKey(..)")
    }
}

impl SessionKey {
    /// Derives the key from what only the two sides know of their connection (its exported keying
    /// material), the repo, and the number of this session in that connection. A key must not be
    /// used twice with other sets.
    pub fn derive(keying_material: &[u8; 32], topic: TopicId, epoch: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(SESSION_CONTEXT);
        hasher.update(keying_material).update(topic.as_bytes()).update(&epoch.to_le_bytes());
        let session = *hasher.finalize().as_bytes();
        Self {
            tag: blake3::derive_key(TAG_CONTEXT, &session),
            names: NameKey::of(&session),
            kept: NameKey::kept(topic),
        }
    }

    /// The tag of what is under `prefix`: the count's low 16 bits, then 48 bits of the keyed hash
    /// over prefix, count and hash. The count's part is as good as a hash's where sets differ in
    /// size, and tells the other side by how much.
    pub(crate) fn tag(&self, prefix: Prefix, digest: Digest) -> Tag {
        let hash = self.tag_hash([(prefix, digest)]);
        let mut tag = [0; 8];
        tag[..2].copy_from_slice(&digest.count.to_le_bytes()[..2]);
        tag[2..].copy_from_slice(&hash[..6]);
        Tag(tag)
    }

    /// The short tag of what is under `prefix`: the count's low [`SHORT_COUNT_BITS`], and as many
    /// bits of the keyed hash as there is room for. That two are equal says little.
    pub(crate) fn short_tag(&self, prefix: Prefix, digest: Digest) -> ShortTag {
        let hash = self.tag_hash([(prefix, digest)]);
        let count = digest.count.to_le_bytes()[0] & SHORT_COUNT_MASK;
        ShortTag([hash[0], hash[1] & !SHORT_COUNT_MASK | count])
    }

    /// The tag over several prefixes: 64 bits of the keyed hash.
    pub(crate) fn tag_over(&self, parts: impl IntoIterator<Item = (Prefix, Digest)>) -> [u8; 8] {
        let hash = self.tag_hash(parts);
        let mut tag = [0; 8];
        tag.copy_from_slice(&hash[..8]);
        tag
    }

    fn tag_hash(&self, parts: impl IntoIterator<Item = (Prefix, Digest)>) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.tag);
        for (prefix, digest) in parts {
            hasher.update(&prefix.to_key());
            hasher.update(&digest.count.to_le_bytes());
            hasher.update(&digest.hash);
        }
        *hasher.finalize().as_bytes()
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// What a prefix is compared by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(pub(crate) [u8; 8]);

impl Tag {
    /// The low 16 bits of the count.
    pub(crate) fn count(self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }
}

/// What a bucket of an opening is compared by, before all the others are by one tag over them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShortTag(pub(crate) [u8; 2]);

/// How much of the count a short tag has. Deviations of up to 64 can be told: four times the usual
/// ones where 64 buckets differ by 16,000 links. The 9 bits that are left to the hash hide a bucket
/// of equal counts from one comparison in 512, which costs a round.
pub(crate) const SHORT_COUNT_BITS: u32 = 7;
const SHORT_COUNT_MASK: u8 = (1 << SHORT_COUNT_BITS) - 1;

impl ShortTag {
    /// The low [`SHORT_COUNT_BITS`] of the count.
    pub(crate) fn count(self) -> u16 {
        u16::from(self.0[1] & SHORT_COUNT_MASK)
    }
}

/// A link's name in a session. Its highest 16 bits are the id's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ShortId(pub(crate) u64);

/// How many bits of the id a short id begins with.
pub(crate) const SHORT_PREFIX_BITS: u8 = 16;

impl ShortId {
    /// Where its link is.
    pub(crate) fn prefix(self) -> Prefix {
        let keep = 64 - u32::from(SHORT_PREFIX_BITS);
        Prefix::new(self.0 >> keep << keep, SHORT_PREFIX_BITS).expect("its other bits are cut off")
    }
}
