//! ark's merge against a port of the executable model of DESIGN 1 and 5: random histories on two
//! to six devices with partial, reordered exchange, with and without devices restored from old
//! copies. After every step both show the same; at the end all devices are the same, no content
//! that a user wrote is lost, and nothing that was overwritten knowingly is back.
//!
//! The model is flat: names and contents only. It differs from the original in what DESIGN says
//! otherwise: the mark of a copy in a name is replaced, and a copy's name is lengthened while any
//! entry has it, also one that shows only copies. Contents are compared by ark's hash.

mod memory;

use std::collections::{BTreeMap, BTreeSet};

use ark_core::{
    Behind, Content, Dot, Head, Incarnation, LocalChange, Mtime, Name, Node, ObjectId, Permissions,
    Put, RelPath, RepoKind, Shown, Snapshot, State, TopicId, Tree, Vector, What, Writer, dir,
    heads, join, put_in, shown,
};
use memory::{Memory, Random, name, writer};

/// A content: equal keys are equal bytes; the number only lets the oracle follow who wrote what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Token {
    key: String,
    number: u32,
}

fn digest(key: &str) -> ObjectId {
    ObjectId::of(key.as_bytes())
}

/// Per name its versions: content, and whether it is aside.
type ModelTree = BTreeMap<String, BTreeMap<Dot, (Token, bool)>>;

#[derive(Clone)]
struct ModelState {
    sequence: u64,
    vector: Vector,
    tree: ModelTree,
}

fn model_merge(a: (&ModelTree, &Vector), b: (&ModelTree, &Vector)) -> (ModelTree, Vector) {
    let mut merged = ModelTree::new();
    let none = BTreeMap::new();
    for name in a.0.keys().chain(b.0.keys()).collect::<BTreeSet<_>>() {
        let (in_a, in_b) = (a.0.get(name).unwrap_or(&none), b.0.get(name).unwrap_or(&none));
        let mut kept = BTreeMap::new();
        for dot in in_a.keys().chain(in_b.keys()) {
            let version = match (in_a.get(dot), in_b.get(dot)) {
                (Some(a), Some(b)) => (a.0.clone(), a.1 || b.1),
                (Some(a), None) if !b.1.has(*dot) => a.clone(),
                (None, Some(b)) if !a.1.has(*dot) => b.clone(),
                _ => continue,
            };
            kept.insert(*dot, version);
        }
        let in_place = kept.values().filter(|(_, aside)| !aside).map(|(token, _)| &token.key);
        if let Some(winner) = in_place.max_by_key(|key| digest(key)).cloned() {
            for (token, aside) in kept.values_mut() {
                *aside = token.key != winner;
            }
        }
        if !kept.is_empty() {
            merged.insert(name.clone(), kept);
        }
    }
    let mut vector = a.1.clone();
    vector.take_in_all(b.1);
    (merged, vector)
}

fn model_joined(states: &BTreeMap<Writer, ModelState>) -> (ModelTree, Vector) {
    let mut joined = (ModelTree::new(), Vector::empty());
    for (writer, state) in states {
        let dot = Dot { writer: *writer, sequence: state.sequence };
        if !states.iter().any(|(other, state)| other != writer && state.vector.has(dot)) {
            joined = model_merge((&joined.0, &joined.1), (&state.tree, &state.vector));
        }
    }
    joined
}

/// What the user sees: shown name -> (name of the entry, key).
fn model_shown(tree: &ModelTree) -> BTreeMap<String, (String, String)> {
    let mut shown = BTreeMap::new();
    for (name, versions) in tree {
        for (token, _) in versions.values().filter(|(_, aside)| !aside) {
            shown.insert(name.clone(), (name.clone(), token.key.clone()));
        }
    }
    let mut taken: BTreeSet<String> = tree.keys().cloned().collect();
    for (name, versions) in tree {
        let aside = versions.values().filter(|(_, aside)| *aside);
        let mut keys: Vec<_> = aside.map(|(token, _)| token.key.clone()).collect();
        keys.sort_by_key(|key| std::cmp::Reverse(digest(key)));
        keys.dedup();
        let stem = name.split(".conflict-").next().unwrap();
        for key in keys {
            let digits = digest(&key).to_string();
            let copies = (8..=64).step_by(8).map(|n| format!("{stem}.conflict-{}", &digits[..n]));
            let copy = copies.into_iter().find(|copy| !taken.contains(copy)).unwrap();
            taken.insert(copy.clone());
            shown.insert(copy, (name.clone(), key));
        }
    }
    shown
}

fn model_drop(tree: &mut ModelTree, (name, key): &(String, String)) {
    if let Some(versions) = tree.get_mut(name) {
        versions.retain(|_, (token, _)| token.key != *key);
    }
}

fn model_put(tree: &mut ModelTree, name: &str, token: Token, dot: Dot) {
    let versions = tree.entry(name.to_owned()).or_default();
    for (_, aside) in versions.values_mut() {
        *aside = true;
    }
    versions.insert(dot, (token, false));
}

fn dots(tree: &ModelTree) -> BTreeSet<Dot> {
    tree.values().flat_map(BTreeMap::keys).copied().collect()
}

/// A device as the model has it and as ark has it, side by side.
#[derive(Clone)]
struct Device {
    writer: Writer,
    sequence: u64,
    model: BTreeMap<Writer, ModelState>,
    states: BTreeMap<Writer, State>,
}

impl Device {
    fn new(number: u8) -> Self {
        let (model, states) = (BTreeMap::new(), BTreeMap::new());
        Self { writer: writer(number), sequence: 0, model, states }
    }

    /// The state of an old copy, under a new incarnation; the old one stays as another writer.
    fn restore(&mut self, copy: &Self, incarnation: u64) {
        self.writer.incarnation = Incarnation::new(incarnation);
        self.sequence = 0;
        self.model = copy.model.clone();
        self.states = copy.states.clone();
    }

    fn receive(&mut self, from: &Self, writer: Writer) {
        let newer = |known: Option<u64>, sequence| known.unwrap_or(0) < sequence;
        let state = &from.model[&writer];
        let known = self.model.get(&writer).map(|state| state.sequence);
        if writer != self.writer && newer(known, state.sequence) {
            self.model.insert(writer, state.clone());
            self.states.insert(writer, from.states[&writer].clone());
        }
    }

    fn joined(&self, memory: &Memory) -> Tree {
        let heads = heads(self.states.values());
        let (merged, _) = memory.with(|overlay| join(overlay, &heads).unwrap());
        assert_eq!(merged.equivocations, []);
        merged.tree
    }

    fn next_dot(&self) -> Dot {
        Dot { writer: self.writer, sequence: self.sequence + 1 }
    }

    /// Publishes what both made of the joined tree.
    fn publish(&mut self, memory: &Memory, model: (ModelTree, Vector), ark: (ObjectId, Vector)) {
        let dot = self.next_dot();
        self.sequence = dot.sequence;
        let ((mut tree, mut vector), (root, mut ark_vector)) = (model, ark);
        tree.retain(|_, versions| !versions.is_empty());
        vector.take_in(dot);
        self.model.insert(self.writer, ModelState { sequence: dot.sequence, vector, tree });
        ark_vector.take_in(dot);
        let snapshot = Snapshot { root, vector: ark_vector.clone(), wall_time_ms: 0 }.encode();
        memory.put(&snapshot);
        let state = State {
            topic: TopicId::derive("model", None),
            kind: RepoKind::Folder,
            writer: self.writer,
            revision: dot.sequence,
            heads: vec![Head { id: snapshot.id(), sequence: dot.sequence }],
            vector: ark_vector,
            held: Vec::new(),
        };
        self.states.insert(self.writer, state);
    }
}

/// That both have the same tree and show the same.
fn compare(memory: &Memory, model: &ModelTree, root: ObjectId) -> Vec<Shown> {
    let of_model: BTreeMap<Name, BTreeMap<Dot, (ObjectId, bool)>> = model
        .iter()
        .map(|(text, versions)| {
            let version = |(dot, (token, aside)): (&Dot, &(Token, bool))| {
                (*dot, (digest(&token.key), *aside))
            };
            (name(text), versions.iter().map(version).collect())
        })
        .collect();
    let of_ark: BTreeMap<_, BTreeMap<_, _>> = dir::entries(memory, root)
        .map(|entry| {
            let entry = entry.unwrap();
            let versions = entry.versions.iter().flat_map(|version| {
                let what = (version.node.link().id, version.aside);
                version.dots.iter().map(move |dot| (*dot, what))
            });
            (entry.name.clone(), versions.collect())
        })
        .collect();
    assert_eq!(of_ark, of_model);
    let seen = shown(memory, root).unwrap();
    let of_ark: Vec<_> =
        seen.iter().map(|s| (s.name.clone(), s.of.clone(), s.version.node.link().id)).collect();
    let of_model: Vec<_> = model_shown(model)
        .into_iter()
        .map(|(shown, (of, key))| (name(shown), name(of), digest(&key)))
        .collect();
    assert_eq!(of_ark, of_model);
    seen
}

fn put_change(seen: &[Shown], at: &str, key: &str) -> LocalChange {
    let content = Content::Raw(digest(key));
    let put = Put::File { content, size: key.len() as u64, mtime: Mtime::default() };
    let permissions = Permissions::from_mode(0o644);
    let behind = behind(seen, at);
    let permissions_changed = behind.is_none();
    let what = What::Put { put, permissions, permissions_changed };
    LocalChange { path: RelPath::from(vec![name(at)]), behind, what }
}

fn remove_change(seen: &[Shown], at: &str) -> LocalChange {
    let path = RelPath::from(vec![name(at)]);
    LocalChange { path, behind: behind(seen, at), what: What::Remove }
}

fn behind(seen: &[Shown], at: &str) -> Option<Behind> {
    let shown = seen.iter().find(|shown| shown.name == name(at))?;
    let (dots, permissions_dot) = (shown.version.dots.clone(), shown.version.permissions_dot);
    assert!(matches!(shown.version.node, Node::File { .. }));
    Some(Behind { name: shown.of.clone(), dots, permissions_dot })
}

#[derive(Clone, Copy)]
struct Setting {
    devices: u8,
    steps: usize,
    names: usize,
    histories: u64,
}

/// What a user of some device does.
enum Act {
    Write { at: String, token: Token },
    Delete { at: String },
    Rename { at: String, to: String },
}

/// One random history with what the oracle knows of it.
struct History {
    random: Random,
    memory: Memory,
    devices: Vec<Device>,
    names: usize,
    /// Contents that must be somewhere, and dots that must be nowhere.
    live: BTreeSet<Token>,
    dropped: BTreeSet<Dot>,
    written: u32,
}

impl History {
    fn act(&mut self, at: usize) {
        if self.random.percent(35) {
            return self.exchange(at);
        }
        let (tree, vector) = model_joined(&self.devices[at].model);
        let joined = self.devices[at].joined(&self.memory);
        assert_eq!(joined.vector, vector);
        let seen = compare(&self.memory, &tree, joined.root);
        let model_seen = model_shown(&tree);
        let what = self.random.below(100);
        let act = if what < 62 || model_seen.is_empty() {
            self.choose_write(&model_seen)
        } else {
            let shown: Vec<_> = model_seen.keys().collect();
            let chosen = (*self.random.choose(&shown)).clone();
            let to = format!("p{}", self.random.below(self.names));
            if what < 85 { Act::Delete { at: chosen } } else { Act::Rename { at: chosen, to } }
        };
        self.perform(at, &act, (tree, vector), (joined, seen));
    }

    fn choose_write(&mut self, seen: &BTreeMap<String, (String, String)>) -> Act {
        self.written += 1;
        let number = self.written;
        let key = if self.random.percent(80) {
            format!("c{number}")
        } else {
            format!("same{}", self.random.below(3))
        };
        let shown: Vec<_> = seen.keys().collect();
        let at = if !shown.is_empty() && self.random.percent(30) {
            (*self.random.choose(&shown)).clone()
        } else {
            format!("p{}", self.random.below(self.names))
        };
        Act::Write { at, token: Token { key, number } }
    }

    fn perform(
        &mut self,
        device: usize,
        act: &Act,
        (mut tree, vector): (ModelTree, Vector),
        (joined, seen): (Tree, Vec<Shown>),
    ) {
        let before = tree.clone();
        let model_seen = model_shown(&tree);
        let tokens = |(name, key): &(String, String)| -> Vec<Token> {
            let tokens = before[name].values().map(|(token, _)| token.clone());
            let tokens: BTreeSet<_> = tokens.filter(|token| token.key == *key).collect();
            tokens.into_iter().collect()
        };
        let dot = self.devices[device].next_dot();
        let mut changes = Vec::new();
        match act {
            Act::Write { at, token } => {
                if let Some(old) = model_seen.get(at) {
                    if old.1 == token.key {
                        return;
                    }
                    self.forget(&tokens(old));
                    model_drop(&mut tree, old);
                }
                self.live.insert(token.clone());
                model_put(&mut tree, at, token.clone(), dot);
                changes.push(put_change(&seen, at, &token.key));
            }
            Act::Delete { at } => {
                let old = &model_seen[at];
                self.forget(&tokens(old));
                model_drop(&mut tree, old);
                changes.push(remove_change(&seen, at));
            }
            Act::Rename { at, to } => {
                if at == to {
                    return;
                }
                let (old, over) = (&model_seen[at], model_seen.get(to));
                let moved = tokens(old);
                self.forget(&moved[1..]);
                model_drop(&mut tree, old);
                changes.push(remove_change(&seen, at));
                if over.is_some_and(|over| over.1 == old.1) {
                    self.forget(&moved[..1]);
                } else {
                    if let Some(over) = over {
                        self.forget(&tokens(over));
                        model_drop(&mut tree, over);
                    }
                    model_put(&mut tree, to, moved[0].clone(), dot);
                    changes.push(put_change(&seen, to, &old.1));
                }
            }
        }
        self.dropped.extend(dots(&before).difference(&dots(&tree)));
        let (root, _) =
            self.memory.with(|overlay| put_in(overlay, &joined, dot, &changes).unwrap());
        let ark = (root, joined.vector);
        self.devices[device].publish(&self.memory, (tree, vector), ark);
    }

    /// What was overwritten or deleted knowingly.
    fn forget(&mut self, tokens: &[Token]) {
        self.live.retain(|token| !tokens.contains(token));
    }

    /// Takes in all or one of the states that some device knows.
    fn exchange(&mut self, to: usize) {
        let from = self.random.below(self.devices.len());
        let from = self.devices[from].clone();
        let mut writers: Vec<_> = from.model.keys().copied().collect();
        if !writers.is_empty() && self.random.percent(50) {
            writers = vec![*self.random.choose(&writers)];
        }
        for writer in writers {
            self.devices[to].receive(&from, writer);
        }
    }

    /// What only the lost copy knew is lost with it.
    fn forget_lost(&mut self) {
        let states = self.devices.iter().flat_map(|device| device.model.values());
        let versions = states.flat_map(|state| state.tree.values().flat_map(BTreeMap::values));
        let known: BTreeSet<_> = versions.map(|(token, _)| token.clone()).collect();
        self.live.retain(|token| known.contains(token));
    }

    fn exchange_all(&mut self) {
        for _ in 0..self.devices.len() {
            for from in self.devices.clone() {
                for to in &mut self.devices {
                    for writer in from.model.keys() {
                        to.receive(&from, *writer);
                    }
                }
            }
        }
    }
}

fn run(seed: u64, setting: Setting) {
    let restores = seed % 2 == 1;
    let mut history = History {
        random: Random(seed),
        memory: Memory::default(),
        devices: (0..setting.devices).map(Device::new).collect(),
        names: setting.names,
        live: BTreeSet::new(),
        dropped: BTreeSet::new(),
        written: 0,
    };
    let mut copies: BTreeMap<usize, Device> = BTreeMap::new();
    let mut incarnation = 1_000;
    for _ in 0..setting.steps {
        let at = history.random.below(history.devices.len());
        if history.random.percent(5) {
            copies.insert(at, history.devices[at].clone());
        }
        if restores
            && history.random.percent(3)
            && let Some(copy) = copies.get(&at)
        {
            incarnation += 1;
            history.devices[at].restore(copy, incarnation);
            history.forget_lost();
        }
        history.act(at);
    }
    history.exchange_all();
    let (tree, _) = model_joined(&history.devices[0].model);
    let root = history.devices[0].joined(&history.memory).root;
    for device in &history.devices {
        assert_eq!(model_joined(&device.model).0, tree, "the model diverged");
        assert_eq!(device.joined(&history.memory).root, root, "diverged");
    }
    compare(&history.memory, &tree, root);
    let there: BTreeSet<_> =
        tree.values().flat_map(BTreeMap::values).map(|(token, _)| token.clone()).collect();
    let lost: Vec<_> = history.live.difference(&there).collect();
    assert!(lost.is_empty(), "lost {lost:?}");
    if !restores {
        let there = dots(&tree);
        let back: Vec<_> = history.dropped.intersection(&there).collect();
        assert!(back.is_empty(), "resurrected {back:?}");
    }
}

/// Runs the histories with the first seeds; `ARK_TEST_HISTORIES` times as many, where it is set.
fn run_all(setting: Setting) {
    let times = std::env::var("ARK_TEST_HISTORIES").map_or(1, |text| text.parse().unwrap());
    for seed in 0..setting.histories * times {
        let outcome = std::panic::catch_unwind(|| run(seed, setting));
        assert!(outcome.is_ok(), "history {seed} of {} devices", setting.devices);
    }
}

#[test]
fn two_devices() {
    run_all(Setting { devices: 2, steps: 40, names: 2, histories: 600 });
}

#[test]
fn three_devices() {
    run_all(Setting { devices: 3, steps: 60, names: 3, histories: 250 });
}

#[test]
fn four_devices() {
    run_all(Setting { devices: 4, steps: 100, names: 3, histories: 100 });
}

#[test]
fn five_devices() {
    run_all(Setting { devices: 5, steps: 150, names: 4, histories: 40 });
}

#[test]
fn six_devices() {
    run_all(Setting { devices: 6, steps: 300, names: 2, histories: 16 });
}
