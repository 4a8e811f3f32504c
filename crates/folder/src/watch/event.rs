//! What the system's events mean for the paths of a folder.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use ark_core::{Name, RelPath};
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{ErrorKind, Event, EventKind};

use super::{FENCE_DIRECTORY, Shared, Signal};
use crate::ignore::RULES_FILE;

impl Shared {
    /// Takes one event, on the thread that delivers them; never waits for anything but a lock
    /// that is held for moments.
    pub(super) fn event(&self, event: notify::Result<Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.everything(),
            Ok(event) => self.signals(&event),
            Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                self.state().health.refused = Some(in_words(&error));
                self.everything();
            }
            Err(_) => self.everything(),
        }
    }

    fn everything(&self) {
        self.state().debounce.everything();
        self.wake.notify_one();
    }

    fn signals(&self, event: &Event) {
        let paths = event.paths.iter();
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                self.each(paths, Signal::Closed);
            }
            // Reading makes events too.
            EventKind::Access(_) => {}
            EventKind::Create(CreateKind::Folder) => self.each(paths, Signal::NewDirectory),
            EventKind::Modify(ModifyKind::Name(mode)) => self.renamed(&event.paths, mode),
            EventKind::Modify(ModifyKind::Metadata(_)) => self.attributes(&event.paths),
            EventKind::Remove(_) => self.each(paths, Signal::Replaced),
            EventKind::Create(_) | EventKind::Modify(_) | EventKind::Any | EventKind::Other => {
                self.each(paths, Signal::Modified);
            }
        }
    }

    /// On Linux a rename comes as two halves and then once more as a whole.
    fn renamed(&self, paths: &[PathBuf], mode: RenameMode) {
        match mode {
            RenameMode::From => self.each(paths.iter(), Signal::Replaced),
            RenameMode::Both if cfg!(target_os = "linux") => {}
            _ => {
                for path in paths {
                    let signal =
                        if is_directory(path) { Signal::NewDirectory } else { Signal::Replaced };
                    self.each(std::iter::once(path), signal);
                }
            }
        }
    }

    /// A directory whose mode changed may be readable now and was not before: nothing in it
    /// is known, and it has no watch.
    fn attributes(&self, paths: &[PathBuf]) {
        for path in paths {
            match self.relative(path) {
                Where::In(relative) if relative.is_root() => self.everything(),
                Where::In(relative) if is_directory(path) => {
                    self.note(relative, Signal::NewDirectory);
                }
                Where::In(relative) => self.note(relative, Signal::Modified),
                Where::Fence(_) | Where::Elsewhere => {}
            }
        }
    }

    fn each<'a>(&self, paths: impl Iterator<Item = &'a PathBuf>, signal: Signal) {
        for path in paths {
            match self.relative(path) {
                Where::In(path) if path.is_root() => {
                    // The root was moved or removed: the scan of everything finds out.
                    if signal == Signal::Replaced {
                        self.everything();
                    }
                }
                Where::In(path) => self.signal(path, signal),
                Where::Fence(name) => {
                    if let Some(fence) = self.state().fences.remove(&name) {
                        // A fence that nobody waits for any more is no loss.
                        let _ = fence.send(());
                    }
                }
                Where::Elsewhere => {}
            }
        }
    }

    fn signal(&self, path: RelPath, signal: Signal) {
        if matches!(signal, Signal::Replaced | Signal::NewDirectory) {
            self.state().forget(&path);
        }
        self.note(path, signal);
    }

    fn note(&self, path: RelPath, signal: Signal) {
        let is_rules = path.names().last().is_some_and(|name| name.as_bytes() == RULES_FILE);
        let ignored = !is_rules
            && match signal {
                // What kind it had is not known any more. That something ignored is gone is no
                // change, but must be known before the rule goes.
                Signal::Replaced => {
                    let ignored = |is_dir| self.rules.ignored_as_seen(&path, is_dir);
                    ignored(false) && ignored(true) && !self.is_missed(&path)
                }
                Signal::NewDirectory => self.rules.ignored_as_seen(&path, true),
                _ => self.rules.ignored_as_seen(&path, false),
            };
        if !ignored {
            let now = self.now();
            self.state().debounce.event(path, signal, now);
            self.wake.notify_one();
        }
    }

    /// Whether nothing is at an ignored path that is not in an ignored directory.
    fn is_missed(&self, path: &RelPath) -> bool {
        let in_ignored =
            path.split_last().is_some_and(|(above, _)| self.rules.ignored_as_seen(&above, true));
        !in_ignored && self.absolute(path).symlink_metadata().is_err()
    }

    /// A path of the folder as events name it.
    pub(super) fn absolute(&self, path: &RelPath) -> PathBuf {
        crate::fs::to_system_path(&self.path, path)
    }

    fn relative(&self, path: &Path) -> Where {
        let Ok(below) = path.strip_prefix(&self.path) else { return Where::Elsewhere };
        let mut names = Vec::new();
        for component in below.components() {
            let Component::Normal(name) = component else { return Where::Elsewhere };
            match Name::new(name.as_bytes()) {
                Ok(name) => names.push(name),
                Err(_) => return Self::reserved(below),
            }
        }
        Where::In(RelPath::from(names))
    }

    /// A path with a name that is never synced: a fence, or of no interest.
    fn reserved(below: &Path) -> Where {
        match below.strip_prefix(FENCE_DIRECTORY) {
            Ok(name) if !name.as_os_str().is_empty() => {
                Where::Fence(name.as_os_str().as_bytes().to_vec())
            }
            _ => Where::Elsewhere,
        }
    }
}

/// Where a path of an event lies.
enum Where {
    In(RelPath),
    /// In the directory of fences, under this name.
    Fence(Vec<u8>),
    Elsewhere,
}

/// Whether a directory, and no symlink to one, is at `path`. Asked of the system by path: it is
/// but a hint.
fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// Whether a directory could not be watched because it is not there any more, or may not be read:
/// then it is not listed either, and the directory that it is in tells of its bits.
pub(super) fn is_out_of_reach(error: &notify::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => {
            matches!(error.kind(), NotFound | NotADirectory | PermissionDenied)
        }
        _ => false,
    }
}

/// What is wrong and what to do about it.
pub(super) fn in_words(error: &notify::Error) -> String {
    let exhausted = |error: &std::io::Error| {
        error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
    };
    match &error.kind {
        ErrorKind::MaxFilesWatch => {
            "the system's limit of watches is reached; raise fs.inotify.max_user_watches".to_owned()
        }
        ErrorKind::Io(error) if exhausted(error) => {
            "the system's limit of watchers is reached; raise fs.inotify.max_user_instances"
                .to_owned()
        }
        _ => error.to_string(),
    }
}
