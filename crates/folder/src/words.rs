//! Errors in words, for logs and for what a folder says of itself.

use std::error::Error;

/// An error with its causes in one line. A cause that the error has told already is not repeated.
pub(crate) fn in_words(error: &dyn Error) -> String {
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
