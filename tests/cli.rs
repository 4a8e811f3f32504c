//! The command line without a running daemon: what it prints, where, and the code it ends with.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_ark");
/// A config in which nothing is wrong.
const GOOD: &str = "[store]\npath = \"./data\"\n[network]\nbind = [\"127.0.0.1:0\"]\n\
    relay = \"disabled\"\ndiscovery = []\nport_mapping = false\n";

/// A user's home and working directory, with nothing else of the system's in sight.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn with_config(text: &str) -> Self {
        let home = Self::new();
        home.write("ark.toml", text);
        home
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("below the home")).expect("directories");
        fs::write(&path, text).expect("a file");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .current_dir(self.path())
            .env("HOME", self.path())
            .env_remove("ARK_CONFIG")
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_STATE_HOME")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        command
    }

    fn ark(&self, arguments: &[&str]) -> Ran {
        Ran::new(&mut self.command(arguments))
    }

    /// Every path below the home, sorted.
    fn contents(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut directories = vec![self.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                let relative = path.strip_prefix(self.path()).expect("below the home");
                found.push(relative.to_str().expect("text").to_owned());
                if path.is_dir() && !path.is_symlink() {
                    directories.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

/// What a command printed and how it ended.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn new(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().expect("ark runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    #[track_caller]
    fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

#[test]
fn without_a_config_the_places_and_a_starter_are_printed() {
    let home = Home::new();
    for arguments in [&[][..], &["id"], &["check"], &["status"], &["wait"], &["service", "systemd"]]
    {
        let ran = home.ark(arguments).ended(2);
        let xdg = home.path().join(".config/ark/ark.toml");
        for place in ["--config", "$ARK_CONFIG", "./ark.toml", xdg.to_str().expect("text")] {
            assert!(ran.stderr.contains(place), "{place}: {ran:?}");
        }
        let starter: Vec<&str> = ran.stderr.lines().rev().take(5).collect();
        assert_eq!(starter[4], "[store]", "{ran:?}");
        assert_eq!(ran.stdout, "");
    }
    assert_eq!(home.contents(), [""; 0], "nothing is written");
}

#[test]
fn configs_are_searched_in_order() {
    let home = Home::new();
    let id = |command: &mut Command| Ran::new(command).ended(0).stdout;
    let store = |name: &str| format!("store.path = \"{name}\"\n");
    home.write(".config/ark/ark.toml", &store("xdg-default"));
    let default = id(&mut home.command(&["id"]));
    home.write("config/ark/ark.toml", &store("xdg"));
    let config_home = home.path().join("config");
    let xdg = id(home.command(&["id"]).env("XDG_CONFIG_HOME", &config_home));
    home.write("ark.toml", &store("here"));
    let here = id(home.command(&["id"]).env("XDG_CONFIG_HOME", &config_home));
    home.write("variable.toml", &store("variable"));
    let variable = id(home.command(&["id"]).env("ARK_CONFIG", "variable.toml"));
    home.write("named.toml", &store("named"));
    let mut commands = [["id", "--config", "named.toml"], ["--config", "named.toml", "id"]];
    let [after, before] =
        commands.each_mut().map(|arguments| id(home.command(arguments).env("ARK_CONFIG", "x")));
    assert_eq!(after, before);
    let mut ids = Vec::new();
    for (store, id) in [
        (".config/ark/xdg-default", default),
        ("config/ark/xdg", xdg),
        ("here", here),
        ("variable", variable),
        ("named", after),
    ] {
        assert!(home.path().join(store).join("secret_key").is_file(), "{store}");
        assert!(!ids.contains(&id), "{store}: {id:?}");
        ids.push(id);
    }
}

#[test]
fn a_config_that_was_named_must_be_there() {
    let home = Home::with_config(GOOD);
    let named = home.ark(&["check", "--config", "none.toml"]).ended(2);
    assert!(named.stderr.contains("none.toml: cannot be read"), "{named:?}");
    let variable = Ran::new(home.command(&["check"]).env("ARK_CONFIG", "none.toml")).ended(2);
    assert!(variable.stderr.contains("none.toml: cannot be read"), "{variable:?}");
}

#[test]
fn id_prints_the_id_and_makes_the_key_once() {
    let home = Home::with_config(GOOD);
    let first = home.ark(&["id"]).ended(0);
    assert_eq!(first.stdout.len(), 65, "{first:?}");
    assert!(first.stdout.trim_end().bytes().all(|byte| byte.is_ascii_hexdigit()), "{first:?}");
    assert_eq!(first.stderr, "");
    assert_eq!(home.contents(), ["ark.toml", "data", "data/secret_key"]);
    let key = fs::metadata(home.path().join("data/secret_key")).expect("the key");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    assert_eq!(home.ark(&["id"]).ended(0).stdout, first.stdout);
}

#[test]
fn a_key_that_others_may_read_is_used_with_a_warning() {
    let home = Home::with_config(GOOD);
    let id = home.ark(&["id"]).ended(0).stdout;
    let key = home.path().join("data/secret_key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
    let again = home.ark(&["id"]).ended(0);
    assert_eq!(again.stdout, id);
    assert!(again.stderr.contains("chmod 600"), "{again:?}");
}

#[test]
fn a_damaged_key_is_refused_and_never_replaced() {
    for damaged in ["", "not a key\n", &"a".repeat(63), &"0".repeat(1 << 16)] {
        let home = Home::with_config(GOOD);
        let key = home.write("data/secret_key", damaged);
        for arguments in [&["id"][..], &[]] {
            let ran = home.ark(arguments).ended(1);
            assert!(ran.stderr.contains("secret_key is damaged"), "{ran:?}");
            assert_eq!(ran.stdout, "");
        }
        assert_eq!(fs::read_to_string(key).expect("the key"), damaged);
        assert_eq!(home.contents(), ["ark.toml", "data", "data/secret_key"]);
    }
}

#[test]
fn check_prints_every_error_with_its_line_and_writes_nothing() {
    let good = Home::with_config(GOOD).ark(&["check"]).ended(0);
    assert_eq!(good.stderr, "");
    let text = "[store]\npath = \"./data\"\n\n[network]\ncolour = \"blue\"\nbind = [\"nowhere\"]\n\
        [sync]\nquiet_period = \"soon\"\n[[repos]]\nid = \"a\"\nsecret = \"\"\n\
        remotes = [{ name = \"x\", node_id = \"ae58\", role = \"king\" }]\n\
        folder = { path = \"./file\" }\n[[repos]]\nid = \"a\"\nfolder = { path = \"./data/f\" }\n";
    let home = Home::with_config(text);
    home.write("file", "");
    for arguments in [&["check", "--config", "ark.toml"][..], &["--config", "ark.toml"]] {
        let ran = home.ark(arguments).ended(2);
        let expected = [
            "ark.toml:5: network.colour: ",
            "ark.toml:6: network.bind[0]: ",
            "ark.toml:8: sync.quiet_period: ",
            "ark.toml:11: repos[0].secret: ",
            "ark.toml:12: repos[0].remotes[0].node_id: ",
            "ark.toml:12: repos[0].remotes[0].role: ",
            "ark.toml:13: repos[0].folder.path: ",
            "ark.toml:15: repos[1].id: ",
            "ark.toml:16: repos[1].folder.path: ",
        ];
        let lines: Vec<&str> = ran.stderr.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{ran:?}");
        for (line, start) in lines.iter().zip(expected) {
            assert!(line.starts_with(start), "{start}: {ran:?}");
        }
        assert_eq!(ran.stdout, "");
        assert_eq!(home.contents(), ["ark.toml", "file"], "nothing is written");
    }
}

/// All that the README and the example say may be written.
#[test]
fn what_is_documented_is_a_good_config() {
    let readme = include_str!("../README.md").split("```toml\n").skip(1);
    let blocks: Vec<&str> = readme.map(|rest| rest.split("```").next().unwrap_or(rest)).collect();
    assert!(blocks.len() >= 4, "the shortest, one with a repo, a mirror's, one of all keys");
    for block in blocks.into_iter().chain([include_str!("../ark.example.toml")]) {
        let store = if block.contains("[store]") { "" } else { "[store]\npath = \"./data\"\n" };
        // What it leaves to be filled in.
        let block = block.replace("https://...", "https://relay.example.org");
        let mut parts = block.split("node_id = \"");
        let mut text = format!("{store}{}", parts.next().unwrap_or_default());
        for part in parts {
            let id = Home::with_config(GOOD).ark(&["id"]).ended(0).stdout;
            let (_, rest) = part.split_once('"').expect("the id ends");
            text = format!("{text}node_id = \"{}\"{rest}", id.trim_end());
        }
        Home::with_config(&text).ark(&["check"]).ended(0);
    }
}

/// Each of these is wrong in its own way: the daemon refuses to start and writes nothing.
#[test]
fn a_daemon_does_not_start_on_a_wrong_config() {
    let repo = |more: &str| format!("{GOOD}[[repos]]\nid = \"a\"\n{more}\n");
    let cases = [
        ("broken TOML", format!("{GOOD}[[repos\n"), "toml: "),
        ("an unknown key", format!("{GOOD}[colours]\n"), "colours: unknown key"),
        ("a bad id", repo("remotes = [{ name = \"x\", node_id = \"xyz\" }]"), "64 hex digits"),
        ("a bad role", repo("remotes = [{ name = \"x\", role = \"king\" }]"), "\"king\""),
        ("a bad duration", format!("{GOOD}[sync]\nrescan_interval = \"x\"\n"), "not a duration"),
        ("a folder that is a file", repo("folder.path = \"./file\""), "is not a directory"),
        ("an empty secret", repo("secret = \"\""), "must not be empty"),
        (
            "a mode to come",
            repo("folder = { path = \"f\", mode = \"send-only\" }"),
            "not supported",
        ),
        ("a key to come", repo("history = { keep = \"30d\" }"), "not supported"),
        ("two of one id", format!("{}[[repos]]\nid = \"a\"\n", repo("")), "is the id of"),
        (
            "overlap",
            format!(
                "{}[[repos]]\nid = \"b\"\nfolder.path = \"f/g\"\n",
                repo("folder.path = \"f\"")
            ),
            "is inside the folder",
        ),
        ("the store inside", repo("folder.path = \".\""), "contains the store"),
        ("inside the store", repo("folder.path = \"data/x\""), "is inside the store"),
        ("no store", "[[repos]]\nid = \"a\"\n".to_owned(), "store.path: missing"),
    ];
    for (what, text, expected) in cases {
        let home = Home::with_config(&text);
        home.write("file", "");
        let ran = home.ark(&[]).ended(2);
        assert!(ran.stderr.contains(expected), "{what}: {ran:?}");
        assert_eq!(home.contents(), ["ark.toml", "file"], "{what}: nothing is written");
    }
}

#[test]
fn this_device_is_no_remote_of_its_own() {
    let home = Home::with_config(GOOD);
    let id = home.ark(&["id"]).ended(0).stdout;
    let id = id.trim_end();
    home.write(
        "ark.toml",
        &format!(
            "{GOOD}[[repos]]\nid = \"a\"\nremotes = [{{ name = \"me\", node_id = \"{id}\" }}]\n"
        ),
    );
    let ran = home.ark(&["check"]).ended(2);
    assert!(ran.stderr.contains("is this device itself"), "{ran:?}");
}

#[test]
fn wrong_usage() {
    let home = Home::with_config(GOOD);
    for arguments in [
        &["dance"][..],
        &["--colour"],
        &["id", "extra"],
        &["service"],
        &["service", "cron"],
        &["wait", "--timeout", "-1"],
        &["wait", "--timeout", "soon"],
    ] {
        home.ark(arguments).ended(2);
    }
    assert_eq!(home.contents(), ["ark.toml"], "nothing is written");
    let ran = home.ark(&["wait", "--repo", "none"]).ended(2);
    assert!(ran.stderr.contains("there is no repo \"none\""), "{ran:?}");
}

#[test]
fn only_what_is_built_is_offered() {
    let help = Home::new().ark(&["--help"]).ended(0).stdout;
    for command in ["id", "check", "status", "wait", "service"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
    for command in ["log", "restore", "verify", "jj", "run"] {
        assert!(!help.contains(&format!("\n  {command} ")), "{command}: {help}");
    }
}

#[test]
fn without_a_daemon_status_says_so() {
    let home = Home::with_config(GOOD);
    for arguments in [&["status"][..], &["status", "--json"], &["status", "--watch"]] {
        let ran = home.ark(arguments).ended(1);
        assert!(ran.stderr.contains("no daemon runs"), "{ran:?}");
        assert_eq!(ran.stdout, "");
    }
    let ran = home.ark(&["wait", "--timeout", "0.2"]).ended(1);
    assert!(ran.stderr.contains("no daemon runs"), "{ran:?}");
    assert_eq!(home.contents(), ["ark.toml"], "nothing is written");
}

#[test]
fn units_name_this_binary_and_config_by_absolute_paths() {
    let home = Home::new();
    let config = home.write("my 50% \"config\" & more/ark.toml", GOOD);
    let relative = "my 50% \"config\" & more/ark.toml";
    let unit = home.ark(&["service", "systemd", "--config", relative]).ended(0).stdout;
    let binary = Path::new(BINARY).canonicalize().expect("the binary");
    assert!(unit.contains(&format!("ExecStart=\"{}\" --config \"", binary.display())), "{unit}");
    for line in [
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "StartLimitBurst=10",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}: {unit}");
    }
    verify_unit(&home, &unit);
    let plist = home.ark(&["--config", relative, "service", "launchd"]).ended(0).stdout;
    let escaped = config.to_str().expect("text").replace('&', "&amp;");
    assert!(plist.contains(&format!("<string>{escaped}</string>")), "{plist}");
    assert!(plist.contains(&format!("<string>{}</string>", binary.display())), "{plist}");
}

/// Has systemd itself look at the unit, where it is installed.
fn verify_unit(home: &Home, unit: &str) {
    let file = home.write("ark.service", unit);
    let ran = Command::new("systemd-analyze").arg("verify").arg(&file).output();
    let Ok(Output { status, stderr, .. }) = ran else {
        eprintln!("systemd-analyze is not installed: the unit was not verified");
        return;
    };
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && !stderr.contains("ark.service"), "{stderr}\n{unit}");
}
