//! Sealing of gossip payloads: XChaCha20-Poly1305 under the repo's key.
//!
//! Layout: 24 bytes random nonce, then ciphertext with the 16-byte tag. The nonce is long
//! enough to be drawn at random for as long as a repo lives. The seal keeps out whoever does
//! not know the repo; who wrote a state is said by its signature, not by this.

use ark_core::SealingKey;
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

/// Bytes of the nonce.
const NONCE_BYTES: usize = 24;
/// Bytes of the authentication tag.
const TAG_BYTES: usize = 16;
/// What sealing adds to a payload, in bytes.
pub(crate) const SEAL_OVERHEAD: usize = NONCE_BYTES + TAG_BYTES;

/// Seals and opens the payloads of one repo.
#[derive(Clone)]
pub(crate) struct Sealer(XChaCha20Poly1305);

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// A sealer with the repo's key.
    pub(crate) fn new(key: &SealingKey) -> Self {
        Self(XChaCha20Poly1305::new(key.as_bytes().into()))
    }

    /// `payload`, sealed; `None` only for payloads beyond the cipher's limit of 256 GiB.
    pub(crate) fn seal(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let sealed = self.0.encrypt(&XNonce::from(nonce), payload).ok()?;
        let mut bytes = nonce.to_vec();
        bytes.extend_from_slice(&sealed);
        Some(bytes)
    }

    /// What [`Sealer::seal`] sealed with the same key; `None` for anything else.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        self.0.decrypt(&XNonce::from(*nonce), sealed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let ours = Sealer::new(&SealingKey::derive("repo", None));
        let sealed = ours.seal(b"payload").unwrap();
        assert_eq!(sealed.len(), 7 + SEAL_OVERHEAD);
        assert_eq!(ours.open(&sealed).as_deref(), Some(&b"payload"[..]));

        let other = Sealer::new(&SealingKey::derive("repo", Some("secret")));
        assert_eq!(other.open(&sealed), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(ours.open(&damaged), None);
            assert_eq!(ours.open(&sealed[..at]), None);
        }
    }
}
