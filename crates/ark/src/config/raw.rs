//! The first stage: the keys of the interface with their shapes, nothing decided yet.

use super::document::{At, Report, Section, StringOrStrings};
use super::problem::Place;

pub(super) struct RawConfig {
    pub(super) store: RawStore,
    pub(super) network: RawNetwork,
    pub(super) sync: RawSync,
    pub(super) repos: Vec<RawRepo>,
}

pub(super) struct RawStore {
    pub(super) place: Place,
    pub(super) path: Option<At<String>>,
}

pub(super) struct RawNetwork {
    pub(super) bind: Option<At<Vec<At<String>>>>,
    pub(super) relay: Option<StringOrStrings>,
    pub(super) discovery: Option<At<Vec<At<String>>>>,
    pub(super) port_mapping: Option<At<bool>>,
}

pub(super) struct RawSync {
    pub(super) enumerate_threshold: Option<At<Option<u64>>>,
    pub(super) quiet_period: Option<At<String>>,
    pub(super) rescan_interval: Option<At<String>>,
}

pub(super) struct RawRepo {
    pub(super) place: Place,
    pub(super) id: Option<At<String>>,
    pub(super) secret: Option<At<String>>,
    pub(super) remotes: Vec<RawRemote>,
    pub(super) folder: Option<RawFolder>,
}

pub(super) struct RawRemote {
    pub(super) place: Place,
    pub(super) name: Option<At<String>>,
    pub(super) node_id: Option<At<String>>,
    pub(super) role: Option<At<String>>,
    pub(super) addrs: Option<At<Vec<At<String>>>>,
    pub(super) relay: Option<At<String>>,
}

pub(super) struct RawFolder {
    pub(super) place: Place,
    pub(super) path: Option<At<String>>,
    pub(super) mode: Option<At<String>>,
    pub(super) ignore: Option<At<Vec<At<String>>>>,
}

/// Reads the document; wrong shapes and unknown keys go to `report`.
pub(super) fn read(mut document: Section<'_, '_>, report: &mut Report) -> RawConfig {
    let config = RawConfig {
        store: store(document.section("store", report), report),
        network: network(document.section("network", report), report),
        sync: sync(document.section("sync", report), report),
        repos: {
            let repos = document.sections("repos", report);
            repos.into_iter().map(|section| repo(section, report)).collect()
        },
    };
    document.finish(&[], report);
    config
}

fn store(mut section: Section<'_, '_>, report: &mut Report) -> RawStore {
    let store = RawStore { place: section.place_of("path"), path: section.string("path", report) };
    section.finish(&["max_size", "reserve_free"], report);
    store
}

fn network(mut section: Section<'_, '_>, report: &mut Report) -> RawNetwork {
    let network = RawNetwork {
        bind: section.strings("bind", report),
        relay: section.string_or_strings("relay", report),
        discovery: section.strings("discovery", report),
        port_mapping: section.boolean("port_mapping", report),
    };
    section.finish(&[], report);
    network
}

fn sync(mut section: Section<'_, '_>, report: &mut Report) -> RawSync {
    let sync = RawSync {
        enumerate_threshold: section.number("enumerate_threshold", report),
        quiet_period: section.string("quiet_period", report),
        rescan_interval: section.string("rescan_interval", report),
    };
    section.finish(&[], report);
    sync
}

fn repo(mut section: Section<'_, '_>, report: &mut Report) -> RawRepo {
    let remotes = section.sections("remotes", report);
    let folder_section = section.section("folder", report);
    let repo = RawRepo {
        place: section.place().clone(),
        id: section.string("id", report),
        secret: section.string("secret", report),
        remotes: remotes.into_iter().map(|section| remote(section, report)).collect(),
        folder: folder_section.is_present().then(|| folder(folder_section, report)),
    };
    section.finish(&["history"], report);
    repo
}

fn remote(mut section: Section<'_, '_>, report: &mut Report) -> RawRemote {
    let remote = RawRemote {
        place: section.place().clone(),
        name: section.string("name", report),
        node_id: section.string("node_id", report),
        role: section.string("role", report),
        addrs: section.strings("addrs", report),
        relay: section.string("relay", report),
    };
    section.finish(&[], report);
    remote
}

fn folder(mut section: Section<'_, '_>, report: &mut Report) -> RawFolder {
    let folder = RawFolder {
        place: section.place().clone(),
        path: section.string("path", report),
        mode: section.string("mode", report),
        ignore: section.strings("ignore", report),
    };
    section.finish(&["max_delete"], report);
    folder
}
