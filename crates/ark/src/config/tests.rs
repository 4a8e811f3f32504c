//! Every rule of the config, by the exact lines that it prints.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use ark_core::DeviceId;
use ark_net::{Discovery, Relay, Role};

use super::{Config, LoadError, Surroundings};

/// Ids of devices: the public halves of the keys 1, 2 and 3 (each byte).
fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes(*iroh::SecretKey::from_bytes(&[number; 32]).public().as_bytes())
}

fn surroundings(directory: &Path) -> Surroundings {
    Surroundings { home: Some(directory.join("home")), device_at: Some(|_| Some(device(9))) }
}

/// What loading `text` gives: the config, or the lines printed, with the file as `FILE` and the
/// directory as `DIR`.
fn load_in(directory: &Path, text: &[u8]) -> Result<Config, Vec<String>> {
    let file = directory.join("ark.toml");
    std::fs::write(&file, text).expect("the config");
    match super::load(&file, &surroundings(directory)) {
        Ok(config) => Ok(config),
        Err(LoadError::Invalid(problems)) => {
            let text = problems.to_string();
            let text = text.replace(file.to_str().expect("text"), "FILE");
            let text = text.replace(directory.to_str().expect("text"), "DIR");
            Err(text.lines().map(str::to_owned).collect())
        }
        Err(other) => panic!("{other}"),
    }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in ["home", "photos/inner", "music", "data/inner"] {
        std::fs::create_dir_all(directory.path().join(name)).expect("a directory");
    }
    std::fs::write(directory.path().join("file"), "").expect("a file");
    std::os::unix::fs::symlink("photos", directory.path().join("link")).expect("a symlink");
    directory
}

/// The lines printed for a text, `@1`, `@2`, `@9` in it standing for ids of devices. A text
/// without a store gets one on a line before the first.
fn lines(text: &str) -> Vec<String> {
    let directory = directory();
    let path = directory.path().canonicalize().expect("it exists");
    let text = text
        .replace("@1", &device(1).to_string())
        .replace("@2", &device(2).to_string())
        .replace("@9", &device(9).to_string());
    load_in(&path, text.as_bytes()).err().unwrap_or_default()
}

/// Like [`lines`], with `[store]` put in front without adding a line.
fn stored(text: &str) -> Vec<String> {
    lines(&format!("store = {{ path = \"data\" }}{text}"))
}

#[test]
fn a_whole_config() {
    let directory = directory();
    let path = directory.path();
    let text = format!(
        r#"
        [store]
        path = "./data"
        [network]
        bind = ["0.0.0.0:4550", "[::]:4550", "127.0.0.1:0"]
        relay = ["https://relay.example.org"]
        discovery = ["dht"]
        port_mapping = false
        [sync]
        quiet_period = "2s 500ms"
        rescan_interval = "10m"
        enumerate_threshold = 0x10
        [[repos]]
        id = "photos"
        secret = "s"
        remotes = [
          {{ name = "laptop", node_id = "{}", role = "peer", addrs = ["192.0.2.7:4550"], relay = "https://r.example" }},
          {{ name = "nas", node_id = "{}" }},
          {{ name = "screen", node_id = "{}", role = "reader" }},
          {{ name = "vault", node_id = "{}", role = "mirror" }},
        ]
        [repos.folder]
        path = "~/photos"
        mode = "two-way"
        ignore = ["*.tmp", "!keep.tmp"]
        [[repos]]
        id = "held"
        "#,
        device(1),
        device(2).to_string().to_uppercase(),
        device(3),
        device(4),
    );
    let config = load_in(path, text.as_bytes()).expect("it is valid");
    assert_eq!(config.store_path, path.join("data"));
    assert_eq!(config.network.bind.len(), 3);
    assert!(matches!(&config.network.relay, Relay::Urls(urls) if urls.len() == 1));
    assert_eq!(config.network.discovery, [Discovery::Dht]);
    assert!(!config.network.port_mapping);
    assert_eq!(config.quiet_period, Duration::from_millis(2_500));
    assert_eq!(config.rescan_interval, Duration::from_mins(10));
    assert_eq!(config.enumerate_threshold, 16);
    let photos = &config.repos[0];
    assert_eq!((photos.id.as_str(), photos.remotes.len()), ("photos", 4));
    assert_eq!(photos.remotes[1].device, device(2));
    let roles = [Role::Peer, Role::Peer, Role::Reader, Role::Mirror];
    assert!(photos.remotes.iter().map(|remote| remote.role).eq(roles));
    assert_eq!(photos.writers(), [device(1), device(2)].into());
    assert_eq!(photos.folder.as_ref().expect("a folder").path, path.join("home/photos"));
    assert_eq!(format!("{:?}", photos.secret), "Some(Secret(..))");
    assert_eq!(config.repos[1].folder, None);
}

#[test]
fn a_folder_is_kept_while_it_and_its_writers_are_the_same() {
    let directory = directory();
    let config = |role: &str, ignore: &str, addrs: &str| {
        let (x, y) = (device(1), device(2));
        let text = format!(
            "[store]\npath = 'd'\n[[repos]]\nid = 'a'\nremotes = [\n\
             {{ name = 'x', node_id = '{x}', addrs = [{addrs}] }},\n\
             {{ name = 'y', node_id = '{y}', role = '{role}' }}]\n\
             [repos.folder]\npath = 'music'\nignore = ['{ignore}']\n"
        );
        load_in(directory.path(), text.as_bytes()).expect("it is valid")
    };
    let old = config("peer", "*.o", "");
    assert!(config("peer", "*.o", "'127.0.0.1:9'").keeps_folder(&old, "a"));
    assert!(!config("reader", "*.o", "").keeps_folder(&old, "a"));
    assert!(!config("peer", "*.a", "").keeps_folder(&old, "a"));
    assert!(!old.keeps_folder(&old, "b"));
}

#[test]
fn defaults() {
    let directory = directory();
    let config = load_in(directory.path(), b"[store]\npath = \"d\"").expect("it is valid");
    assert!(config.network.bind.is_empty() && config.network.port_mapping);
    assert_eq!(config.network.relay, Relay::Default);
    assert_eq!(config.network.discovery, [Discovery::Dns, Discovery::Mdns]);
    assert_eq!(config.quiet_period, Duration::from_millis(50));
    assert_eq!(config.rescan_interval, Duration::from_hours(1));
    assert_eq!(config.enumerate_threshold, 8);
    assert!(config.repos.is_empty());
}

#[test]
fn wrong_store_network_and_sync() {
    let cases: &[(Vec<String>, &[&str])] = &[
        (lines(""), &["FILE:1: store.path: missing: where to keep data, such as \"./data\""]),
        (
            lines("[store]"),
            &["FILE:1: store.path: missing: where to keep data, such as \"./data\""],
        ),
        (lines("\n[store]\npath = ''"), &["FILE:3: store.path: must not be empty"]),
        (
            lines("store.path = 7"),
            &["FILE:1: store.path: expected a text in quotes, found the number 7"],
        ),
        (
            lines("store = 'x'"),
            &[
                "FILE:1: store: expected a table, found the text \"x\"",
                "FILE:1: store.path: missing: where to keep data, such as \"./data\"",
            ],
        ),
        (lines("store.path = 'file'"), &["FILE:1: store.path: DIR/file is not a directory"]),
        (
            lines("store.path = '~bob/x'"),
            &["FILE:1: store.path: `~name` is not understood; write ~/ or the whole path"],
        ),
        (
            stored("\ncolour = 1"),
            &["FILE:2: colour: unknown key; known here: store, network, sync, repos"],
        ),
        (
            stored("\n[network]\nbind = ['1.2.3.4', '[::1]:1', '[::1]:1']"),
            &[
                "FILE:3: network.bind[0]: \"1.2.3.4\" is not an address with a port, such as \"192.0.2.7:4550\" or \"[::]:4550\"",
                "FILE:3: network.bind[2]: \"[::1]:1\" is listed twice",
            ],
        ),
        (
            stored("\nnetwork.bind = []"),
            &["FILE:2: network.bind: names no address; leave the key out for any free port"],
        ),
        (
            stored("\nnetwork.bind = 'x'"),
            &["FILE:2: network.bind: expected a list, found the text \"x\""],
        ),
        (
            stored("\nnetwork.relay = 'no'"),
            &[
                "FILE:2: network.relay: expected \"default\", \"disabled\" or a list of relay URLs, found \"no\"",
            ],
        ),
        (
            stored("\nnetwork.relay = ['relay', 'ftp://x']"),
            &[
                "FILE:2: network.relay[0]: \"relay\" is not a relay URL such as \"https://relay.example.org\"",
                "FILE:2: network.relay[1]: \"ftp://x\" is not a relay URL such as \"https://relay.example.org\"",
            ],
        ),
        (
            stored("\nnetwork.relay = []"),
            &["FILE:2: network.relay: names no relay; write \"disabled\" for none"],
        ),
        (
            stored("\nnetwork.discovery = [\n'dns',\n'carrier pigeon', 3]"),
            &[
                "FILE:4: network.discovery[1]: expected \"dns\", \"mdns\" or \"dht\", found \"carrier pigeon\"",
                "FILE:4: network.discovery[2]: expected a text in quotes, found the number 3",
            ],
        ),
        (
            stored("\nnetwork.port_mapping = 'yes'"),
            &["FILE:2: network.port_mapping: expected true or false, found the text \"yes\""],
        ),
        (
            stored("\nsync.quiet_period = 50"),
            &["FILE:2: sync.quiet_period: expected a text in quotes, found the number 50"],
        ),
        (
            stored("\nsync.quiet_period = '2h'"),
            &["FILE:2: sync.quiet_period: \"2h\" is not between 0s and 1h"],
        ),
        (
            stored("\nsync.rescan_interval = '0s'"),
            &["FILE:2: sync.rescan_interval: \"0s\" is not between 1s and 1year 18h"],
        ),
        (
            stored("\nsync.enumerate_threshold = -1"),
            &["FILE:2: sync.enumerate_threshold: not between 0 and 1000"],
        ),
        (
            stored("\nsync.enumerate_threshold = '8'"),
            &["FILE:2: sync.enumerate_threshold: expected a whole number, found the text \"8\""],
        ),
    ];
    for (printed, expected) in cases {
        assert_eq!(printed, expected);
    }
}

#[test]
fn wrong_repos() {
    let repo = "\n[[repos]]\nid = \"a\"\n";
    let in_repo = |text: &str| stored(&format!("{repo}{text}"));
    let cases: &[(Vec<String>, &[&str])] = &[
        (stored("\nrepos = 3"), &["FILE:2: repos: expected a list, found the number 3"]),
        (
            stored("\n[[repos]]"),
            &["FILE:2: repos[0].id: missing: the repo's name, the same on every machine"],
        ),
        (stored("\n[[repos]]\nid = ''"), &["FILE:3: repos[0].id: must not be empty"]),
        (
            stored("\n[[repos]]\nid = \"a\\nb\""),
            &["FILE:3: repos[0].id: \"a\\nb\" has control characters"],
        ),
        (
            in_repo("secret = ''"),
            &["FILE:4: repos[0].secret: must not be empty; leave the key out for no secret"],
        ),
        (
            in_repo("[[repos]]\nid = 'a'"),
            &["FILE:5: repos[1].id: \"a\" is the id of the repo on line 3"],
        ),
        (
            in_repo("folder = 'x'"),
            &["FILE:4: repos[0].folder: expected a table, found the text \"x\""],
        ),
        (
            in_repo("[repos.folder]"),
            &["FILE:4: repos[0].folder.path: missing: the directory to keep in step"],
        ),
        (
            in_repo("folder = { path = 'file' }"),
            &["FILE:4: repos[0].folder.path: DIR/file is not a directory"],
        ),
        (
            in_repo("folder = { path = 'm', mode = 'both' }"),
            &["FILE:4: repos[0].folder.mode: expected \"two-way\", found \"both\""],
        ),
        (
            in_repo("folder = { path = 'm', ignore = ['a', '{b'] }"),
            &[
                "FILE:4: repos[0].folder.ignore[1]: not a gitignore pattern: error parsing glob '{b': unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
            ],
        ),
    ];
    for (printed, expected) in cases {
        assert_eq!(printed, expected);
    }
}

#[test]
fn durations() {
    for wrong in ["", "fast", "5", "-1s", "1s1", "99999999999999999999h"] {
        let printed = stored(&format!("\nsync.quiet_period = '{wrong}'"));
        assert_eq!(printed.len(), 1, "{printed:?}");
        let start = format!("FILE:2: sync.quiet_period: {wrong:?} is not a duration such as ");
        assert!(printed[0].starts_with(&start), "{printed:?}");
    }
}

#[test]
fn what_is_not_built_yet_is_refused() {
    let printed = lines(
        "[store]\npath = 'd'\nmax_size = '1GiB'\nreserve_free = '1GiB'\n\
         [[repos]]\nid = 'a'\n[repos.folder]\npath = 'm'\n\
         mode = 'send-only'\nmax_delete = '50%'\n[repos.history]\nkeep = '30d'\n",
    );
    assert_eq!(
        printed,
        [
            "FILE:3: store.max_size: not supported by this version yet",
            "FILE:4: store.reserve_free: not supported by this version yet",
            "FILE:9: repos[0].folder.mode: \"send-only\" is not supported by this version yet; \"two-way\" is",
            "FILE:10: repos[0].folder.max_delete: not supported by this version yet",
            "FILE:11: repos[0].history: not supported by this version yet",
        ]
    );
}

#[test]
fn remotes() {
    let not_on_curve = (0..=255_u8)
        .map(|byte| DeviceId::from_bytes([byte; 32]))
        .find(|id| iroh::PublicKey::from_bytes(id.as_bytes()).is_err())
        .expect("half of all ids are none");
    let printed = stored(&format!(
        "\n[[repos]]\nid = 'a'\nremotes = [\n\
         {{ name = 'x', node_id = '@1' }},\n\
         {{ name = 'x', node_id = '@2' }},\n\
         {{ name = 'y', node_id = '@1' }},\n\
         {{ name = 'self', node_id = '@9' }},\n\
         {{ name = 'short', node_id = 'ae58' }},\n\
         {{ name = 'off', node_id = '{not_on_curve}' }},\n\
         {{ node_id = '@1', role = 'admin' }},\n\
         {{ name = 'none' }},\n\
         {{ name = 'bad', node_id = '@2', addrs = ['h:1', '1.2.3.4:0'], relay = 'x', nodeid = 1 }},\n\
         7 ]\n[[repos]]\nid = 'b'\nremotes = [{{ name = 'x', node_id = '@2' }}]\n"
    ));
    let expected = [
        "FILE:6: repos[0].remotes[1].name: \"x\" is already the name of a remote, on line 5",
        "FILE:7: repos[0].remotes[2].node_id: this device is already a remote, on line 5",
        "FILE:8: repos[0].remotes[3].node_id: is this device itself; list only the others",
        "FILE:9: repos[0].remotes[4].node_id: expected 64 hex digits, found \"ae58\"",
        &format!(
            "FILE:10: repos[0].remotes[5].node_id: \"{not_on_curve}\" is not the id of a device; compare it with `ark id` there"
        ),
        "FILE:11: repos[0].remotes[6].name: missing: what to call the device",
        "FILE:11: repos[0].remotes[6].role: expected \"peer\", \"reader\" or \"mirror\", found \"admin\"",
        "FILE:12: repos[0].remotes[7].node_id: missing: what `ark id` prints there",
        "FILE:13: repos[0].remotes[8].nodeid: unknown key; known here: name, node_id, role, addrs, relay",
        "FILE:13: repos[0].remotes[8].addrs[0]: \"h:1\" is not an address with a port, such as \"192.0.2.7:4550\" or \"[::]:4550\"",
        "FILE:13: repos[0].remotes[8].addrs[1]: \"1.2.3.4:0\" has port 0, which nothing listens on",
        "FILE:13: repos[0].remotes[8].relay: \"x\" is not a relay URL such as \"https://relay.example.org\"",
        "FILE:13: repos[0].remotes[8].node_id: this device is already a remote, on line 6",
        "FILE:14: repos[0].remotes[9]: expected a table, found the number 7",
        "FILE:17: repos[1].remotes[0].name: \"x\" is another device on line 5",
    ];
    let mut printed_sorted = printed.clone();
    let mut expected_sorted = expected.map(str::to_owned);
    printed_sorted.sort();
    expected_sorted.sort();
    assert_eq!(printed_sorted, expected_sorted);
    let numbers: Vec<usize> = printed
        .iter()
        .map(|line| line.split(':').nth(1).and_then(|line| line.parse().ok()).expect("a line"))
        .collect();
    assert!(numbers.is_sorted(), "{printed:?}");
}

#[test]
fn places_overlap() {
    let folders = |store: &str, folders: &[&str]| {
        let mut text = format!("[store]\npath = '{store}'\n");
        for (index, folder) in folders.iter().enumerate() {
            write!(text, "[[repos]]\nid = 'r{index}'\nfolder = {{ path = '{folder}' }}\n")
                .expect("a string takes all");
        }
        lines(&text)
    };
    assert_eq!(folders("data", &["photos", "music", "new/er", "photos2"]), [""; 0]);
    assert_eq!(
        folders("data", &["data"]),
        ["FILE:5: repos[0].folder.path: DIR/data is the store (line 2), DIR/data"]
    );
    assert_eq!(
        folders("photos/.store", &["photos"]),
        ["FILE:5: repos[0].folder.path: DIR/photos contains the store (line 2), DIR/photos/.store"]
    );
    assert_eq!(
        folders("data", &["data/inner/x"]),
        ["FILE:5: repos[0].folder.path: DIR/data/inner/x is inside the store (line 2), DIR/data"]
    );
    assert_eq!(
        folders("data", &["photos", "music", "link/new"]),
        [
            "FILE:11: repos[2].folder.path: DIR/photos/new is inside the folder of repo \"r0\" (line 5), DIR/photos"
        ]
    );
    assert_eq!(
        folders("data", &["home", "~", "./music/../home/"]),
        [
            "FILE:8: repos[1].folder.path: DIR/home is the folder of repo \"r0\" (line 5), DIR/home",
            "FILE:11: repos[2].folder.path: DIR/home is the folder of repo \"r0\" (line 5), DIR/home",
            "FILE:11: repos[2].folder.path: DIR/home is the folder of repo \"r1\" (line 8), DIR/home",
        ]
    );
}

#[test]
fn broken_toml() {
    for (text, expected) in [
        ("[store\npath = 'd'", 1),
        ("store.path = 'd'\n[[repos]]\nid = \"a\nsecret = 'x'", 3),
        ("store.path = 'd'\nstore.path = 'e'", 2),
        ("store.path = 'd'\n= 3", 2),
        ("store.path = ", 1),
        ("store.path = 'd'\n\n\nbind [1]", 4),
    ] {
        let printed = lines(text);
        let start = format!("FILE:{expected}: toml: ");
        assert!(printed.iter().any(|line| line.starts_with(&start)), "{text:?}: {printed:?}");
    }
}

#[test]
fn broken_toml_and_wrong_values_are_told_at_once() {
    let printed =
        stored("\n[network]\nport_mapping = 3\nrelay = \nbindd = 1\n[sync]\nquiet_period = 'x'");
    let starts = [
        "FILE:3: network.port_mapping: ",
        "FILE:4: toml: ",
        "FILE:5: network.bindd: ",
        "FILE:7: sync.quiet_period: ",
    ];
    assert_eq!(printed.len(), starts.len(), "{printed:?}");
    for (line, start) in printed.iter().zip(starts) {
        assert!(line.starts_with(start), "{printed:?}");
    }
}

#[test]
fn not_text() {
    let directory = directory();
    let printed = load_in(directory.path(), b"# a\n# b\n\xff\n").expect_err("not UTF-8");
    assert_eq!(printed, ["FILE:3: toml: not UTF-8 text"]);
    let absent = super::load(&directory.path().join("none.toml"), &surroundings(directory.path()));
    assert!(matches!(absent, Err(LoadError::Read { .. })));
    let is_directory = super::load(directory.path(), &surroundings(directory.path()));
    assert!(matches!(is_directory, Err(LoadError::Read { .. })));
}

#[test]
fn any_text_is_answered_without_a_panic() {
    let directory = directory();
    let whole = "[store]\npath = 'd'\n[[repos]]\nid = 'a'\nremotes = [{ name = 'x', addrs = [] }]\n[repos.folder]\npath = 'm'\n";
    for start in 0..whole.len() {
        for length in [0, 1, 3, 9] {
            let end = (start + length).min(whole.len());
            for filler in ["", "\"", "[", "}", "=", "é\u{0}"] {
                let text = format!("{}{filler}{}", &whole[..start], &whole[end..]);
                drop(load_in(directory.path(), text.as_bytes()));
            }
        }
    }
}
