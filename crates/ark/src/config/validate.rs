//! The second stage: every value parsed, every rule between values held.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ark_core::DeviceId;
use ark_net::{DEFAULT_ENUMERATE_THRESHOLD, Discovery, Relay, Remote, Role};
use iroh::RelayUrl;

use super::document::{At, Report, Section, StringOrStrings};
use super::paths::{self, Relation};
use super::problem::{Place, Problems};
use super::raw::{self, RawConfig, RawFolder, RawNetwork, RawRemote, RawRepo, RawSync};
use super::{Config, Folder, Network, Repo, Secret, Surroundings};

const DEFAULT_QUIET_PERIOD: Duration = Duration::from_millis(50);
const DEFAULT_RESCAN_INTERVAL: Duration = Duration::from_hours(1);
/// A file that is written to all day is still taken up within the day.
const MAX_QUIET_PERIOD: Duration = Duration::from_hours(1);
/// Below a second, scans of a large folder would never pause.
const MIN_RESCAN_INTERVAL: Duration = Duration::from_secs(1);
/// Longer than anybody means, short enough for any clock arithmetic.
const MAX_RESCAN_INTERVAL: Duration = Duration::from_hours(366 * 24);
/// Beyond so many ids a list is never the shortest answer.
const MAX_ENUMERATE_THRESHOLD: usize = 1_000;
/// Ids and names are for people and log lines.
const MAX_NAME_BYTES: usize = 255;

/// Parses and checks a config. `file` is named in problems, `absolute` is where it is.
pub(super) fn parse(
    file: &Path,
    absolute: &Path,
    text: &str,
    surroundings: &Surroundings,
) -> Result<Config, Problems> {
    let mut report = Report::new(text);
    let document = report.parse(text);
    let raw = raw::read(Section::document(&document), &mut report);
    let config = validate(raw, absolute, surroundings, &mut report);
    let problems = report.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(Problems::new(file, problems)),
    }
}

/// What is needed to turn values into a config.
struct Base<'a> {
    directory: &'a Path,
    home: Option<&'a Path>,
}

fn validate(
    raw: RawConfig,
    file: &Path,
    surroundings: &Surroundings,
    report: &mut Report,
) -> Option<Config> {
    let base = Base {
        directory: file.parent().unwrap_or(Path::new("/")),
        home: surroundings.home.as_deref(),
    };
    let store_place = raw.store.path.as_ref().map_or(&raw.store.place, |path| &path.place).clone();
    let store_path = raw.store.path.as_ref().and_then(|path| directory(path, &base, report));
    if raw.store.path.is_none() {
        report.missing(&store_place, "missing: where to keep data, such as \"./data\"");
    }
    let own_device = || (surroundings.device_at?)(store_path.as_deref()?);
    let mut remotes = Remotes { own: own_device(), device_of: HashMap::new() };
    let mut taken = Taken::default();
    if let Some(path) = &store_path {
        taken.places.push(("the store".to_owned(), store_place.line, paths::place(path)));
    }
    let network = network(raw.network, report);
    let (quiet_period, rescan_interval) = intervals(&raw.sync, report);
    let enumerate_threshold = enumerate_threshold(raw.sync.enumerate_threshold, report);
    let repos: Vec<Option<Repo>> = raw
        .repos
        .into_iter()
        .map(|raw| repo(raw, &base, &mut remotes, &mut taken, report))
        .collect();
    Some(Config {
        file: file.to_owned(),
        store_path: store_path?,
        network,
        enumerate_threshold,
        quiet_period,
        rescan_interval,
        repos: repos.into_iter().collect::<Option<_>>()?,
    })
}

fn network(raw: RawNetwork, report: &mut Report) -> Network {
    let bind = raw.bind.map_or_else(Vec::new, |list| {
        if list.value.is_empty() {
            report.wrong(&list.place, "names no address; leave the key out for any free port");
        }
        distinct(list.value, report, |text| socket_address(text, true))
    });
    let discovery = match raw.discovery {
        Some(list) => distinct(list.value, report, discovery),
        None => vec![Discovery::Dns, Discovery::Mdns],
    };
    let relay = raw.relay.and_then(|value| relay(value, report)).unwrap_or(Relay::Default);
    let port_mapping = raw.port_mapping.is_none_or(|at| at.value);
    Network { bind, relay, discovery, port_mapping }
}

fn relay(value: StringOrStrings, report: &mut Report) -> Option<Relay> {
    let expected = "expected \"default\", \"disabled\" or a list of relay URLs";
    match value {
        StringOrStrings::One(at) => match at.value.as_str() {
            "default" => Some(Relay::Default),
            "disabled" => Some(Relay::Disabled),
            other => {
                report.wrong(&at.place, format!("{expected}, found {other:?}"));
                None
            }
        },
        StringOrStrings::Many(list) => {
            if list.value.is_empty() {
                report.wrong(&list.place, "names no relay; write \"disabled\" for none");
            }
            Some(Relay::Urls(distinct(list.value, report, relay_url)))
        }
    }
}

fn intervals(raw: &RawSync, report: &mut Report) -> (Duration, Duration) {
    let quiet = raw
        .quiet_period
        .as_ref()
        .and_then(|at| duration(at, Duration::ZERO..=MAX_QUIET_PERIOD, report));
    let rescan = raw
        .rescan_interval
        .as_ref()
        .and_then(|at| duration(at, MIN_RESCAN_INTERVAL..=MAX_RESCAN_INTERVAL, report));
    (quiet.unwrap_or(DEFAULT_QUIET_PERIOD), rescan.unwrap_or(DEFAULT_RESCAN_INTERVAL))
}

fn enumerate_threshold(raw: Option<At<Option<u64>>>, report: &mut Report) -> usize {
    let Some(At { value, place }) = raw else { return DEFAULT_ENUMERATE_THRESHOLD };
    let threshold = value.and_then(|value| usize::try_from(value).ok());
    threshold.filter(|threshold| *threshold <= MAX_ENUMERATE_THRESHOLD).unwrap_or_else(|| {
        report.wrong(&place, format!("not between 0 and {MAX_ENUMERATE_THRESHOLD}"));
        DEFAULT_ENUMERATE_THRESHOLD
    })
}

/// The repo ids and the places that earlier lines have taken.
#[derive(Default)]
struct Taken {
    ids: HashMap<String, usize>,
    /// What is there, on which line it was named, and the place.
    places: Vec<(String, usize, PathBuf)>,
}

fn repo(
    raw: RawRepo,
    base: &Base<'_>,
    remotes: &mut Remotes,
    taken: &mut Taken,
    report: &mut Report,
) -> Option<Repo> {
    let id =
        required(raw.id, &raw.place, "id", "the repo's name, the same on every machine", report);
    let id = id.and_then(|id| name(id, report));
    if let Some(id) = &id {
        if let Some(line) = taken.ids.get(&id.value) {
            report.wrong(&id.place, format!("{:?} is the id of the repo on line {line}", id.value));
        } else {
            taken.ids.insert(id.value.clone(), id.place.line);
        }
    }
    let secret = raw.secret.map(|secret| {
        if secret.value.is_empty() {
            report.wrong(&secret.place, "must not be empty; leave the key out for no secret");
        }
        Secret(secret.value)
    });
    let named = id.as_ref().map_or_else(String::new, |id| format!(" {:?}", id.value));
    let folder = raw.folder.map(|raw| folder(raw, &named, base, taken, report));
    let remotes = remotes.of_repo(raw.remotes, report);
    // A folder or remote that is wrong has been reported; what is returned then is not used.
    Some(Repo { id: id?.value, secret, remotes, folder: folder.flatten() })
}

fn folder(
    raw: RawFolder,
    repo: &str,
    base: &Base<'_>,
    taken: &mut Taken,
    report: &mut Report,
) -> Option<Folder> {
    if let Some(mode) = &raw.mode {
        match mode.value.as_str() {
            "two-way" => {}
            value @ ("send-only" | "receive-only") => report.wrong(
                &mode.place,
                format!("{value:?} is not supported by this version yet; \"two-way\" is"),
            ),
            other => report.wrong(&mode.place, format!("expected \"two-way\", found {other:?}")),
        }
    }
    let ignore = raw.ignore.map_or_else(Vec::new, |list| {
        list.value.into_iter().filter_map(|at| pattern(at, report)).collect()
    });
    let path = required(raw.path, &raw.place, "path", "the directory to keep in step", report)?;
    let resolved = directory(&path, base, report)?;
    let place = paths::place(&resolved);
    for (what, line, other) in &taken.places {
        let how = match paths::relation(&place, other) {
            Relation::Same => "is",
            Relation::Inside => "is inside",
            Relation::Around => "contains",
            Relation::Apart => continue,
        };
        let text = format!("{} {how} {what} (line {line}), {}", place.display(), other.display());
        report.wrong(&path.place, text);
    }
    taken.places.push((format!("the folder of repo{repo}"), path.place.line, place));
    Some(Folder { path: resolved, ignore })
}

/// The devices named so far, over all repos.
struct Remotes {
    /// This device, where it has a key already.
    own: Option<DeviceId>,
    /// Which device a name stands for, and on which line that was said.
    device_of: HashMap<String, (DeviceId, usize)>,
}

impl Remotes {
    fn of_repo(&mut self, raw: Vec<RawRemote>, report: &mut Report) -> Vec<Remote> {
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut devices: HashMap<DeviceId, usize> = HashMap::new();
        let mut remotes = Vec::new();
        for raw in raw {
            let line = raw.place.line;
            let Some((name, device, remote)) = remote(raw, report) else { continue };
            if let Some(earlier) = names.insert(name.value.clone(), line) {
                let text =
                    format!("{:?} is already the name of a remote, on line {earlier}", name.value);
                report.wrong(&name.place, text);
            } else if let Some((other, earlier)) = self.device_of.get(&name.value)
                && *other != device.value
            {
                let text = format!("{:?} is another device on line {earlier}", name.value);
                report.wrong(&name.place, text);
            }
            self.device_of.entry(name.value).or_insert((device.value, line));
            if let Some(earlier) = devices.insert(device.value, line) {
                let text = format!("this device is already a remote, on line {earlier}");
                report.wrong(&device.place, text);
            }
            if self.own == Some(device.value) {
                report.wrong(&device.place, "is this device itself; list only the others");
            }
            remotes.push(remote);
        }
        remotes
    }
}

fn remote(raw: RawRemote, report: &mut Report) -> Option<(At<String>, At<DeviceId>, Remote)> {
    let remote_name = required(raw.name, &raw.place, "name", "what to call the device", report)
        .and_then(|at| name(at, report));
    let node_id =
        required(raw.node_id, &raw.place, "node_id", "what `ark id` prints there", report);
    let device = node_id.and_then(|at| parsed(&at, report, device_id));
    let role = match &raw.role {
        Some(at) => parsed(at, report, role).map(|at| at.value),
        None => Some(Role::Peer),
    };
    let addrs = raw.addrs.map_or_else(Vec::new, |list| {
        distinct(list.value, report, |text| socket_address(text, false))
    });
    let relay = raw.relay.and_then(|at| parsed(&at, report, relay_url)).map(|at| at.value);
    let (name, device) = (remote_name?, device?);
    let remote =
        Remote { name: name.value.clone(), device: device.value, role: role?, addrs, relay };
    Some((name, device, remote))
}

/// The value of a key that must be there.
fn required<T>(
    value: Option<At<T>>,
    section: &Place,
    key: &str,
    meaning: &str,
    report: &mut Report,
) -> Option<At<T>> {
    if value.is_none() {
        let place = Place { line: section.line, field: format!("{}.{key}", section.field) };
        report.missing(&place, format!("missing: {meaning}"));
    }
    value
}

/// The text parsed; what is wrong with it is reported, with the text.
fn parsed<T>(
    at: &At<String>,
    report: &mut Report,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Option<At<T>> {
    match parse(&at.value) {
        Ok(value) => Some(At { value, place: at.place.clone() }),
        Err(text) => {
            report.wrong(&at.place, text);
            None
        }
    }
}

/// The texts parsed; one given twice is reported.
fn distinct<T: PartialEq>(
    list: Vec<At<String>>,
    report: &mut Report,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    let mut values = Vec::new();
    for at in list {
        match parsed(&at, report, &parse) {
            Some(value) if values.contains(&value.value) => {
                report.wrong(&at.place, format!("{:?} is listed twice", at.value));
            }
            Some(value) => values.push(value.value),
            None => {}
        }
    }
    values
}

fn name(at: At<String>, report: &mut Report) -> Option<At<String>> {
    let wrong = if at.value.is_empty() {
        "must not be empty".to_owned()
    } else if at.value.len() > MAX_NAME_BYTES {
        format!("{} bytes long, more than {MAX_NAME_BYTES}", at.value.len())
    } else if at.value.chars().any(char::is_control) {
        format!("{:?} has control characters", at.value)
    } else {
        return Some(at);
    };
    report.wrong(&at.place, wrong);
    None
}

fn directory(at: &At<String>, base: &Base<'_>, report: &mut Report) -> Option<PathBuf> {
    let path = parsed(at, report, |text| paths::resolve(text, base.directory, base.home))?.value;
    // That it is missing or cannot be looked at is for whoever opens it to say.
    if path.metadata().is_ok_and(|metadata| !metadata.is_dir()) {
        report.wrong(&at.place, format!("{} is not a directory", path.display()));
        return None;
    }
    Some(path)
}

fn pattern(at: At<String>, report: &mut Report) -> Option<String> {
    let mut builder = ignore::gitignore::GitignoreBuilder::new("/");
    match builder.add_line(None, &at.value) {
        Ok(_) => Some(at.value),
        Err(error) => {
            report.wrong(&at.place, format!("not a gitignore pattern: {error}"));
            None
        }
    }
}

fn duration(
    at: &At<String>,
    allowed: std::ops::RangeInclusive<Duration>,
    report: &mut Report,
) -> Option<Duration> {
    let parsed = parsed(at, report, |text| {
        let duration = humantime::parse_duration(text).map_err(|error| {
            format!("{text:?} is not a duration such as \"50ms\" or \"1h\": {error}")
        })?;
        if allowed.contains(&duration) {
            Ok(duration)
        } else {
            let (least, most) = (allowed.start(), allowed.end());
            let least = humantime::format_duration(*least);
            let most = humantime::format_duration(*most);
            Err(format!("{text:?} is not between {least} and {most}"))
        }
    });
    parsed.map(|at| at.value)
}

fn socket_address(text: &str, zero_port: bool) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        format!(
            "{text:?} is not an address with a port, such as \"192.0.2.7:4550\" or \"[::]:4550\""
        )
    })?;
    if address.port() == 0 && !zero_port {
        return Err(format!("{text:?} has port 0, which nothing listens on"));
    }
    Ok(address)
}

fn relay_url(text: &str) -> Result<RelayUrl, String> {
    let wrong = || format!("{text:?} is not a relay URL such as \"https://relay.example.org\"");
    let url: RelayUrl = text.parse().map_err(|_| wrong())?;
    if matches!(url.scheme(), "https" | "http") && url.has_host() { Ok(url) } else { Err(wrong()) }
}

fn discovery(text: &str) -> Result<Discovery, String> {
    match text {
        "dns" => Ok(Discovery::Dns),
        "mdns" => Ok(Discovery::Mdns),
        "dht" => Ok(Discovery::Dht),
        _ => Err(format!("expected \"dns\", \"mdns\" or \"dht\", found {text:?}")),
    }
}

fn role(text: &str) -> Result<Role, String> {
    match text {
        "peer" => Ok(Role::Peer),
        "reader" => Ok(Role::Reader),
        "mirror" => Ok(Role::Mirror),
        _ => Err(format!("expected \"peer\", \"reader\" or \"mirror\", found {text:?}")),
    }
}

fn device_id(text: &str) -> Result<DeviceId, String> {
    let device: DeviceId =
        text.parse().map_err(|error: ark_core::ParseIdError| error.to_string())?;
    // Half of all 32-byte strings are no point of the curve: a typing error, most likely.
    match iroh::PublicKey::from_bytes(device.as_bytes()) {
        Ok(_) => Ok(device),
        Err(_) => {
            Err(format!("{text:?} is not the id of a device; compare it with `ark id` there"))
        }
    }
}
