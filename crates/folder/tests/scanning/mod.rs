//! A folder in a temporary directory, a base in a map, and a sink in memory.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ark_core::chunk::chunk_list;
use ark_core::{Behind, DeviceId, Dot, Incarnation, Link, Object, Read, RelPath, Writer};
use ark_folder::base::{Cache, Record};
use ark_folder::fs::{Granularity, Root};
use ark_folder::ignore::Rules;
use ark_folder::scan::{
    Entering, Extent, FoundNode, Hashers, Scan, ScanError, ScanProgress, ScanResult, Sink,
    SinkClosed,
};
use ark_folder::watch::Touch;
use bytes::Bytes;
use tempfile::TempDir;

pub fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

/// Rules that are believed as soon as they stay for a moment.
pub fn rules<S: AsRef<str>>(patterns: &[S]) -> Arc<Rules> {
    Arc::new(Rules::new(patterns).unwrap().with_quiet(Duration::from_millis(1)))
}

pub fn found(result: &ScanResult) -> Vec<String> {
    result.found.keys().map(ToString::to_string).collect()
}

pub fn gone(result: &ScanResult) -> Vec<String> {
    result.gone.iter().map(ToString::to_string).collect()
}

pub fn touched<const N: usize>(paths: [(&str, Touch); N]) -> Extent {
    Extent::Paths(paths.map(|(text, touch)| (path(text), touch)).into())
}

pub fn changed<const N: usize>(paths: [&str; N]) -> Extent {
    touched(paths.map(|text| (text, Touch::Changed)))
}

pub struct Folder {
    _directory: TempDir,
    pub root: Root,
    pub base: BTreeMap<RelPath, Record>,
    pub rules: Arc<Rules>,
    pub sink: Memory,
    pub granularity: Granularity,
    pub progress: ScanProgress,
    entered: Entered,
    hashers: Hashers,
}

impl Folder {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("folder");
        fs::create_dir(&at).unwrap();
        let root = Root::open(&at).unwrap();
        Self {
            granularity: root.granularity(),
            root,
            _directory: directory,
            base: BTreeMap::new(),
            rules: rules::<&str>(&[]),
            sink: Memory::default(),
            progress: ScanProgress::new(),
            entered: Entered::default(),
            hashers: Hashers::new().unwrap(),
        }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// Writes a file, and the directories on the way to it.
    pub fn write(&self, path: &str, content: &[u8]) {
        let at = self.at(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }

    pub fn try_scan(&self, extent: &Extent) -> Result<ScanResult, ScanError> {
        self.try_scan_watched(extent, &self.entered)
    }

    pub fn scan_watched(&self, extent: &Extent, watch: &impl Entering) -> ScanResult {
        loop {
            match self.try_scan_watched(extent, watch) {
                Err(ScanError::RulesInFlux { .. }) => {}
                result => return result.unwrap(),
            }
        }
    }

    pub fn try_scan_watched(
        &self,
        extent: &Extent,
        watch: &impl Entering,
    ) -> Result<ScanResult, ScanError> {
        let scan = Scan {
            root: &self.root,
            base: &self.base,
            rules: &self.rules,
            sink: &self.sink,
            watch,
            hashers: &self.hashers,
            granularity: self.granularity,
            progress: &self.progress,
        };
        scan.run(extent)
    }

    pub fn scan(&self, extent: &Extent) -> ScanResult {
        self.try_scan(extent).unwrap()
    }

    /// Scans everything and makes base say so, for good. What the first scan said.
    pub fn scan_and_record(&mut self) -> ScanResult {
        let result = self.scan(&Extent::Everything);
        self.record(&result);
        self.settle();
        result
    }

    /// Looks again, as later scans would, until each stat stands for its content. Takes a tick
    /// of the clock where the file system's stamps are no finer.
    pub fn settle(&mut self) {
        while self.base.values().any(|r| !r.cache.as_ref().unwrap().settled) {
            let result = self.scan(&Extent::Everything);
            self.record(&result);
        }
    }

    pub fn record(&mut self, result: &ScanResult) {
        for path in result.gone.iter().chain(&result.forgotten) {
            self.base.remove(path);
        }
        for (path, found) in &result.found {
            let device = DeviceId::from_bytes([1; 32]);
            let writer = Writer { device, incarnation: Incarnation::new(1) };
            let dot = Dot { writer, sequence: 1 };
            let name = path.names().last().unwrap().clone();
            let record = Record {
                behind: Behind { name, dots: vec![dot], permissions_dot: dot },
                node: found.node,
                permissions: found.permissions,
                mtime: found.mtime,
                cache: Some(Cache { stat: found.stat, settled: found.settled }),
            };
            self.base.insert(path.clone(), record);
        }
        self.rules.learn(&result.learned);
        self.progress = ScanProgress::new();
        self.entered.0.lock().unwrap().clear();
    }

    /// The directories that were entered since the last record.
    pub fn entered(&self) -> Vec<String> {
        std::mem::take(&mut *self.entered.0.lock().unwrap())
    }

    /// The bytes that were found at a path, as the sink has them.
    pub fn content(&self, result: &ScanResult, at: &str) -> Vec<u8> {
        match result.found[&path(at)].node {
            FoundNode::File { content, size } => chunk_list(&self.sink, content, size)
                .flat_map(|chunk| self.sink.read(chunk.unwrap().0).unwrap())
                .collect(),
            FoundNode::Symlink { target, .. } => {
                self.sink.read(Link::raw(target)).unwrap().to_vec()
            }
            FoundNode::Directory => panic!("{at} is a directory"),
        }
    }
}

#[derive(Default)]
struct Entered(Mutex<Vec<String>>);

impl Entering for Entered {
    fn entering(&self, directory: &RelPath) {
        self.0.lock().unwrap().push(directory.to_string());
    }
}

type Act = Box<dyn FnOnce() + Send>;

/// Keeps objects; can act once when a large enough one comes.
#[derive(Default)]
pub struct Memory {
    objects: Mutex<HashMap<Link, Bytes>>,
    act: Mutex<Option<(usize, Act)>>,
    closed: Mutex<bool>,
}

impl Memory {
    pub fn put_count(&self) -> usize {
        self.objects.lock().unwrap().len()
    }

    pub fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    /// Does `act` when the first object of at least `length` bytes is put.
    pub fn at_first_put_of(&self, length: usize, act: impl FnOnce() + Send + 'static) {
        *self.act.lock().unwrap() = Some((length, Box::new(act)));
    }
}

impl Sink for Memory {
    fn known(&self, link: Link) -> bool {
        self.objects.lock().unwrap().contains_key(&link)
    }

    fn put(&self, object: Object) -> Result<(), SinkClosed> {
        if *self.closed.lock().unwrap() {
            return Err(SinkClosed);
        }
        let mut act = self.act.lock().unwrap();
        if act.as_ref().is_some_and(|(length, _)| object.bytes().len() >= *length) {
            (act.take().unwrap().1)();
        }
        let replaced = self.objects.lock().unwrap().insert(object.link(), object.into_bytes());
        // Two threads may find the same content; that is no fault.
        drop(replaced);
        Ok(())
    }
}

impl Read for Memory {
    type Error = Infallible;

    fn read(&self, link: Link) -> Result<Bytes, Infallible> {
        Ok(self.objects.lock().unwrap()[&link].clone())
    }
}
