//! The configs of temporary machines.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Machine;

/// The repo id that they use.
pub const REPO: &str = "test-repo";

/// What a config says beyond the defaults.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Whether the machine has a folder (at `folder` in its directory) or only holds the repo.
    pub folder: bool,
    /// Further lines of `[repos.folder]`.
    pub folder_lines: String,
    /// Further lines of `[sync]`.
    pub sync_lines: String,
    /// The repo's secret.
    pub secret: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            folder: true,
            folder_lines: String::new(),
            sync_lines: String::new(),
            secret: Some("a secret of the tests".into()),
        }
    }
}

/// A machine as the config of another one lists it.
#[derive(Clone, Debug)]
pub struct Listed<'a> {
    machine: &'a Machine,
    role: &'static str,
    addresses: Vec<SocketAddr>,
}

impl Listed<'_> {
    /// With this role in the place of `peer`.
    #[must_use]
    pub fn role(self, role: &'static str) -> Self {
        Self { role, ..self }
    }

    /// Its id alone: whoever lists it so does not know where it is.
    #[must_use]
    pub fn without_address(self) -> Self {
        Self { addresses: Vec::new(), ..self }
    }

    /// As if it were at this address.
    #[must_use]
    pub fn at(self, address: SocketAddr) -> Self {
        Self { addresses: vec![address], ..self }
    }

    fn line(&self) -> String {
        let Machine { name, id, .. } = self.machine;
        let role = self.role;
        let addrs: Vec<String> = self.addresses.iter().map(|it| format!("\"{it}\"")).collect();
        let addrs = addrs.join(", ");
        format!(
            "  {{ name = \"{name}\", node_id = \"{id}\", role = \"{role}\", addrs = [{addrs}] }},\n"
        )
    }
}

impl Machine {
    /// This machine in the config of another one: a peer, with all its addresses.
    pub fn listed(&self) -> Listed<'_> {
        Listed { machine: self, role: "peer", addresses: self.addresses.clone() }
    }

    /// Writes the config: these remotes as peers, this setup.
    pub fn configure(&self, remotes: &[&Self], setup: &Setup) {
        self.list(&remotes.iter().map(|remote| remote.listed()).collect::<Vec<_>>(), setup);
    }

    /// Writes the config: these remotes, this setup.
    pub fn list(&self, remotes: &[Listed<'_>], setup: &Setup) {
        std::fs::write(self.config(), self.text(remotes, setup)).expect("write the config");
    }

    /// The text that [`Machine::configure`] writes.
    pub fn config_text(&self, remotes: &[&Self], setup: &Setup) -> String {
        self.text(&remotes.iter().map(|remote| remote.listed()).collect::<Vec<_>>(), setup)
    }

    fn text(&self, remotes: &[Listed<'_>], setup: &Setup) -> String {
        let bind: Vec<String> = self.addresses.iter().map(|it| format!("\"{it}\"")).collect();
        let mut text = format!(
            "[store]\npath = \"./store\"\n\n[network]\nbind = [{}]\n\
             relay = \"disabled\"\ndiscovery = []\nport_mapping = false\n\n[sync]\n{}\n\n\
             [[repos]]\nid = \"{REPO}\"\n",
            bind.join(", "),
            setup.sync_lines
        );
        if let Some(secret) = &setup.secret {
            writeln!(text, "secret = \"{secret}\"").expect("text grows");
        }
        text.push_str("remotes = [\n");
        for remote in remotes {
            text.push_str(&remote.line());
        }
        text.push_str("]\n");
        if setup.folder {
            write!(text, "[repos.folder]\npath = \"./folder\"\n{}\n", setup.folder_lines)
                .expect("text grows");
        }
        text
    }
}
