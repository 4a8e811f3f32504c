//! What a folder leaves alone: `.arkignore` files (gitignore syntax) in any directory, and the
//! patterns of the config.
//!
//! Patterns of the config speak for this machine and decide first. Then the `.arkignore` in the
//! deepest directory that says anything about a path decides, as git does it; what is in an
//! ignored directory is ignored whatever else is said. `.gitignore` is not consulted.

mod file;
mod former;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ark_core::RelPath;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::fs::{Dir, FsError, FsErrorKind, Root, Stat};

pub(crate) use file::unusable;
use file::{Seen, read_rules};
pub use former::{FormerRules, Learned};
pub(crate) use former::{RULES_META, Used};

/// Name of the files that hold rules. They are synced as any other file.
pub const RULES_FILE: &[u8] = b".arkignore";
/// The most bytes of such a file: far beyond any written by hand, and each line costs memory.
pub const MAX_RULES_BYTES: u64 = 1 << 20;
/// How long rules that were lost or changed must stay so before a scan believes them: an editor
/// that saves a file moves it away, or empties it, for a moment.
const RULES_QUIET: Duration = Duration::from_millis(250);

/// A pattern of the config that is not gitignore syntax.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ignore pattern {pattern:?}: {reason}")]
#[non_exhaustive]
pub struct PatternError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why it is not known what to ignore below a directory. Nothing below it may then be taken up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The file of rules, or the way to it, could not be read.
    #[error("cannot read ignore rules")]
    Read(#[from] FsError),
    /// It was opened, but reading failed.
    #[error("cannot read the ignore rules of {directory:?}")]
    Content {
        /// The directory that holds the file; empty for the root.
        directory: RelPath,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than [`MAX_RULES_BYTES`], or too complex to match.
    #[error("the ignore rules of {directory:?} cannot be used: {reason}")]
    Unusable {
        /// The directory that holds the file; empty for the root.
        directory: RelPath,
        /// Why.
        reason: String,
    },
}

/// The rules of one folder. Remembers by which of them it was last looked at. Shared between
/// threads.
#[derive(Debug)]
pub struct Rules {
    patterns: Vec<String>,
    config: Gitignore,
    quiet: Duration,
    remembered: Mutex<Remembered>,
}

#[derive(Debug, Default, Clone)]
struct Remembered {
    /// Per directory its file of rules; directories without one are not in it.
    seen: HashMap<RelPath, Seen>,
    /// The patterns of the config by which the folder was last scanned whole, if they are others.
    former: Option<(Vec<String>, Gitignore)>,
}

/// The rules that hold for the names in one directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    config: &'a Gitignore,
    /// The rules on the way from the root: the depth of the directory that has them, and what
    /// they are.
    layers: Vec<(usize, Arc<Gitignore>)>,
    directory: RelPath,
    /// The file of rules that the directory itself has.
    stat: Option<Stat>,
    /// What it says.
    own: Option<Seen>,
    faults: Vec<String>,
}

impl Rules {
    /// Rules with these patterns of the config and no `.arkignore` read yet.
    ///
    /// # Errors
    /// The first pattern that is not gitignore syntax.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternError> {
        Ok(Self {
            patterns: patterns.iter().map(|pattern| pattern.as_ref().to_owned()).collect(),
            config: Self::config(patterns)?,
            quiet: RULES_QUIET,
            remembered: Mutex::default(),
        })
    }

    /// The same, where the folder was last looked at by `former` rules: what is gone and was
    /// ignored by them is forgotten, not removed. Former ones that are no rules any more are
    /// passed over.
    ///
    /// # Errors
    /// The first of `patterns` that is not gitignore syntax.
    pub fn with_former<S: AsRef<str>>(
        patterns: &[S],
        former: FormerRules,
    ) -> Result<Self, PatternError> {
        let rules = Self::new(patterns)?;
        let FormerRules { config, files } = former;
        {
            let mut remembered = rules.locked();
            if config != rules.patterns {
                let is_usable = |one: &&String| Self::config(std::slice::from_ref(*one)).is_ok();
                let usable: Vec<&String> = config.iter().filter(is_usable).collect();
                remembered.former = Self::config(&usable).ok().map(|former| (config, former));
            }
            for (directory, text) in files {
                // Of what cannot be matched nothing was ever ignored.
                if let Ok(seen) = Seen::of(&directory, None, &text) {
                    remembered.seen.insert(directory, seen);
                }
            }
        }
        Ok(rules)
    }

    /// By which rules the folder was last looked at, once `learned` is remembered.
    pub fn former_after(&self, learned: &Learned) -> FormerRules {
        let mut remembered = self.locked().clone();
        remembered.learn(learned);
        let config = remembered.former.map_or_else(|| self.patterns.clone(), |(config, _)| config);
        let files = remembered.seen.into_iter();
        FormerRules { config, files: files.map(|(at, seen)| (at, seen.text.to_vec())).collect() }
    }

    /// The same rules, with another time that changed ones must stay as they are before a scan
    /// believes them.
    #[must_use]
    pub fn with_quiet(self, quiet: Duration) -> Self {
        Self { quiet, ..self }
    }

    fn config<S: AsRef<str>>(patterns: &[S]) -> Result<Gitignore, PatternError> {
        let mut builder = GitignoreBuilder::new(".");
        for pattern in patterns.iter().map(AsRef::as_ref) {
            let failed = |error: ignore::Error| PatternError {
                pattern: pattern.to_owned(),
                reason: error.to_string(),
            };
            builder.add_line(None, pattern).map_err(failed)?;
        }
        builder.build().map_err(|error| PatternError {
            pattern: patterns.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
            reason: error.to_string(),
        })
    }

    /// The rules for the names in the root. Reads `.arkignore` there if it changed.
    ///
    /// # Errors
    /// It cannot be told what to ignore.
    pub fn top(&self, root: &Root) -> Result<Scope<'_>, RulesError> {
        self.extend(Scope::new(&self.config), Some(root.top()))
    }

    /// The rules for the names in `dir`, a directory right below that of `above`.
    ///
    /// # Errors
    /// It cannot be told what to ignore in `dir`.
    pub fn below<'a>(&'a self, above: &Scope<'a>, dir: &Dir) -> Result<Scope<'a>, RulesError> {
        let scope = Scope { directory: dir.path().clone(), ..above.clone() };
        self.extend(scope, Some(dir))
    }

    /// A lookup of many paths, which reads the rules of each directory once.
    pub fn lookup<'a>(&'a self, root: &'a Root) -> Lookup<'a> {
        Lookup { rules: self, root, scopes: HashMap::new() }
    }

    /// Whether `path` is ignored as far as scans read the rules so far; no file is looked at.
    /// Good enough to drop hints early: a scan that reads changed rules walks what they govern.
    pub fn ignored_as_seen(&self, path: &RelPath, is_dir: bool) -> bool {
        ignored_by(&self.config, &self.locked().seen, path, is_dir)
    }

    /// Whether `path` was ignored by the rules that the folder was last looked at by.
    pub(crate) fn was_ignored(&self, path: &RelPath, is_dir: bool) -> bool {
        let remembered = self.locked();
        let config = remembered.former.as_ref().map_or(&self.config, |(_, former)| former);
        ignored_by(config, &remembered.seen, path, is_dir)
    }

    /// The directories of remembered rules that are not there any more.
    pub(crate) fn lost(&self, root: &Root) -> Vec<RelPath> {
        let mut lost: Vec<RelPath> = self.locked().seen.keys().cloned().collect();
        lost.retain(|directory| root.dir(directory).is_err_and(|error| error.is_absent()));
        lost
    }

    /// What a scan is to know of the rules that the directory of `scope` has of its own. `None`
    /// where there are none and were none.
    pub(crate) fn used(&self, scope: &Scope<'_>) -> Option<Used> {
        let is_changed = match (self.locked().seen.get(&scope.directory), &scope.own) {
            (Some(before), Some(own)) => before.text != own.text,
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => false,
        };
        let used = || Used {
            directory: scope.directory.clone(),
            stat: scope.stat,
            seen: scope.own.clone(),
            is_changed,
        };
        (is_changed || scope.stat.is_some()).then(used)
    }

    /// How long changed rules must stay as they are.
    pub(crate) fn quiet(&self) -> Duration {
        self.quiet
    }

    /// Remembers the rules by which a scan looked, now that its result is recorded.
    pub fn learn(&self, learned: &Learned) {
        self.locked().learn(learned);
    }

    fn locked(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the rules that `dir` itself holds. `None` stands for a directory that is not there.
    fn extend<'a>(&self, mut scope: Scope<'a>, dir: Option<&Dir>) -> Result<Scope<'a>, RulesError> {
        (scope.stat, scope.own) = (None, None);
        let stat = match dir.map(|dir| dir.stat(RULES_FILE)) {
            Some(Ok(stat)) => stat,
            Some(Err(error)) if !error.is_absent() => return Err(error.into()),
            _ => return Ok(scope),
        };
        scope.stat = Some(stat);
        let known = self.locked().seen.get(&scope.directory).cloned();
        let is_same = |seen: &Seen| seen.stat.is_some_and(|before| before.unchanged(&stat));
        let seen = match known.filter(is_same) {
            Some(seen) => seen,
            None => match dir.map(read_rules).transpose()?.flatten() {
                Some(seen) => seen,
                None => return Ok(scope),
            },
        };
        scope.stat = seen.stat;
        scope.layers.push((scope.directory.names().len(), Arc::clone(&seen.rules)));
        scope.faults.extend(seen.faults.iter().cloned());
        scope.own = Some(seen);
        Ok(scope)
    }

    /// Adds the rules that the directory held when it was last looked at.
    fn extend_as_seen<'a>(&self, mut scope: Scope<'a>) -> Scope<'a> {
        (scope.stat, scope.own) = (None, None);
        if let Some(seen) = self.locked().seen.get(&scope.directory) {
            scope.layers.push((scope.directory.names().len(), Arc::clone(&seen.rules)));
        }
        scope
    }
}

impl Remembered {
    fn learn(&mut self, learned: &Learned) {
        if learned.is_all {
            self.former = None;
        }
        if !self.seen.is_empty() {
            for path in &learned.absent {
                self.seen.remove(path);
            }
        }
        for Used { directory, seen, .. } in &learned.governing {
            match seen {
                Some(seen) => self.seen.insert(directory.clone(), seen.clone()),
                None => self.seen.remove(directory),
            };
        }
    }
}

impl<'a> Scope<'a> {
    /// No rules but those of the config.
    fn new(config: &'a Gitignore) -> Self {
        Self {
            config,
            layers: Vec::new(),
            directory: RelPath::root(),
            stat: None,
            own: None,
            faults: Vec::new(),
        }
    }

    /// The directory whose names it speaks of.
    pub fn directory(&self) -> &RelPath {
        &self.directory
    }

    /// Whether `path`, a name in this directory, is ignored. The directory itself is not.
    pub fn ignored(&self, path: &RelPath, is_dir: bool) -> bool {
        self.decide(path, is_dir)
    }

    /// Whether `path`, anywhere below this directory, is ignored or in an ignored directory, by
    /// the rules down to this directory.
    pub fn ignored_below(&self, path: &RelPath, is_dir: bool) -> bool {
        let names = path.names();
        (self.directory.names().len()..names.len()).any(|depth| {
            let is_last = depth + 1 == names.len();
            let here = RelPath::from(names[..=depth].to_vec());
            self.decide(&here, is_dir || !is_last)
        })
    }

    /// Lines of the `.arkignore` files on the way here that are no patterns, and are passed
    /// over, in words.
    pub fn faults(&self) -> &[String] {
        &self.faults
    }

    fn decide(&self, path: &RelPath, is_dir: bool) -> bool {
        if self.config.is_empty() && self.layers.is_empty() {
            return false;
        }
        let whole = path.to_bytes();
        let verdict = self.config.matched(as_path(&whole), is_dir);
        if !verdict.is_none() {
            return verdict.is_ignore();
        }
        for (depth, rules) in self.layers.iter().rev() {
            let skipped: usize =
                path.names()[..*depth].iter().map(|n| n.as_bytes().len() + 1).sum();
            match rules.matched(as_path(&whole[skipped..]), is_dir) {
                Match::None => {}
                verdict => return verdict.is_ignore(),
            }
        }
        false
    }
}

/// See [`Rules::lookup`]. Holds for as long as nobody changes rules; make a new one for each plan.
#[derive(Debug)]
pub struct Lookup<'a> {
    rules: &'a Rules,
    root: &'a Root,
    /// Per directory its scope, or `None` where it is itself ignored.
    scopes: HashMap<RelPath, Option<Scope<'a>>>,
}

impl<'a> Lookup<'a> {
    /// Whether `path`, which need not exist, is ignored, or is in an ignored directory; also if
    /// only by the rules that the folder was last looked at by: while an editor saves a file of
    /// rules they are gone for a moment.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn ignored(&mut self, path: &RelPath, is_dir: bool) -> Result<bool, RulesError> {
        match path.split_last() {
            None => Ok(false),
            Some((directory, _)) => {
                let scope = self.scope(&directory)?;
                Ok(scope.is_none_or(|scope| scope.ignored(path, is_dir))
                    || self.rules.was_ignored(path, is_dir))
            }
        }
    }

    fn scope(&mut self, directory: &RelPath) -> Result<Option<Scope<'a>>, RulesError> {
        if let Some(known) = self.scopes.get(directory) {
            return Ok(known.clone());
        }
        let scope = match directory.split_last() {
            None => Some(self.rules.top(self.root)?),
            Some((above, _)) => match self.scope(&above)? {
                Some(above) if !above.ignored(directory, true) => {
                    let scope = Scope { directory: directory.clone(), ..above };
                    Some(self.within(scope)?)
                }
                _ => None,
            },
        };
        self.scopes.insert(directory.clone(), scope.clone());
        Ok(scope)
    }

    /// `scope` with what its directory says. Of one that may not be looked into, as its bits or
    /// those above keep this user out, that is what was seen last.
    fn within(&self, scope: Scope<'a>) -> Result<Scope<'a>, RulesError> {
        let dir = match self.root.dir(&scope.directory) {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error.into()),
        };
        match dir.and_then(|dir| self.rules.extend(scope.clone(), dir.as_ref())) {
            Err(RulesError::Read(error)) if error.kind() == FsErrorKind::Denied => {
                Ok(self.rules.extend_as_seen(scope))
            }
            other => other,
        }
    }
}

/// Whether `path` is ignored by the config and by the files of rules that were `seen`.
fn ignored_by(
    config: &Gitignore,
    seen: &HashMap<RelPath, Seen>,
    path: &RelPath,
    is_dir: bool,
) -> bool {
    if seen.is_empty() && config.is_empty() {
        return false;
    }
    let mut scope = Scope::new(config);
    let names = path.names();
    for depth in 0..names.len() {
        let directory = RelPath::from(names[..depth].to_vec());
        if let Some(found) = seen.get(&directory) {
            scope.layers.push((depth, Arc::clone(&found.rules)));
        }
        let here = RelPath::from(names[..=depth].to_vec());
        if scope.decide(&here, is_dir || depth + 1 < names.len()) {
            return true;
        }
    }
    false
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
