//! Errors in words, for logs and for people.

use std::error::Error;

/// An error with its causes in one line. A cause that the error has told already is not repeated.
pub fn in_words(error: &dyn Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Failed {
        #[error("cannot write {0}")]
        Write(&'static str, #[source] Box<Failed>),
        #[error("no room")]
        NoRoom,
        #[error("the disk says: {0}")]
        Says(#[source] Box<Failed>),
    }

    #[test]
    fn every_cause_is_told_once() {
        let no_room = || Box::new(Failed::NoRoom);
        assert_eq!(in_words(&Failed::Write("x", no_room())), "cannot write x: no room");
        let says = Box::new(Failed::Says(no_room()));
        assert_eq!(in_words(&Failed::Write("x", says)), "cannot write x: the disk says: no room");
    }
}
