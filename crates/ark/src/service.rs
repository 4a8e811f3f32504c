//! Units for service managers, as text. Nothing is installed.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Why no unit can be printed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// The system does not say where this binary is.
    #[error("cannot tell where this binary is")]
    Binary(#[source] io::Error),
    /// A property list is XML, which cannot hold this path.
    #[error("{} cannot be written in a property list", .path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
}

/// This binary, by an absolute path.
///
/// # Errors
/// [`ServiceError::Binary`].
pub fn this_binary() -> Result<PathBuf, ServiceError> {
    std::env::current_exe().map_err(ServiceError::Binary)
}

/// A unit for systemd, of a user (`systemctl --user`) or of the system. Both paths are absolute.
/// The sandbox leaves the file system alone: folders may be anywhere.
pub fn systemd(binary: &Path, config: &Path) -> String {
    // The program itself is not searched for variables, so its `$` stands as it is.
    let program = systemd_quoted(binary.as_os_str(), "$");
    let config_argument = systemd_quoted(config.as_os_str(), "$$");
    format!(
        "# For one user:   put it into ~/.config/systemd/user/ark.service, then
#                 systemctl --user enable --now ark; loginctl enable-linger
# For a machine:  put it into /etc/systemd/system/ark.service, add User= under [Service], then
#                 systemctl enable --now ark

[Unit]
Description=ark keeps folders in step
StartLimitIntervalSec=10min
StartLimitBurst=10

[Service]
Type=notify
ExecStart={program} --config {config_argument}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=5s
# A wrong config does not mend itself.
RestartPreventExitStatus=2
# After a power cut the database of the store is checked before anything else.
TimeoutStartSec=30min
TimeoutStopSec=60s
WatchdogSec=5min
LimitNOFILE=65536
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"
    )
}

/// `text` as one word of a command line in a unit, `$` written as `dollar`.
fn systemd_quoted(text: &OsStr, dollar: &str) -> String {
    let mut quoted = String::from("\"");
    for chunk in text.as_bytes().utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '%' => quoted.push_str("%%"),
                '$' => quoted.push_str(dollar),
                character if character.is_ascii_control() => {
                    push_hex(&mut quoted, character as u8);
                }
                character => quoted.push(character),
            }
        }
        for &byte in chunk.invalid() {
            push_hex(&mut quoted, byte);
        }
    }
    quoted.push('"');
    quoted
}

fn push_hex(text: &mut String, byte: u8) {
    write!(text, "\\x{byte:02x}").expect("a string takes all");
}

/// A property list for launchd, of a user or of the system; `log` is where stderr goes. All paths
/// are absolute.
///
/// # Errors
/// [`ServiceError::NotText`] where a path is not text.
pub fn launchd(binary: &Path, config: &Path, log: &Path) -> Result<String, ServiceError> {
    let program = xml_escaped(binary)?;
    let config_argument = xml_escaped(config)?;
    let log = xml_escaped(log)?;
    Ok(format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Put it into ~/Library/LaunchAgents/ark.plist, then: launchctl load ~/Library/LaunchAgents/ark.plist -->
<plist version="1.0">
<dict>
  <key>Label</key>
  <string>ark</string>
  <key>ProgramArguments</key>
  <array>
    <string>{program}</string>
    <string>--config</string>
    <string>{config_argument}</string>
  </array>
  <key>RunAtLoad</key>
  <true/>
  <key>KeepAlive</key>
  <dict>
    <key>SuccessfulExit</key>
    <false/>
  </dict>
  <key>ThrottleInterval</key>
  <integer>30</integer>
  <key>ExitTimeOut</key>
  <integer>60</integer>
  <key>StandardErrorPath</key>
  <string>{log}</string>
</dict>
</plist>
"#
    ))
}

fn xml_escaped(path: &Path) -> Result<String, ServiceError> {
    let refused = || ServiceError::NotText { path: path.to_owned() };
    let text = path.to_str().ok_or_else(refused)?;
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            // XML 1.0 has no way to write these at all.
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {
                return Err(refused());
            }
            // A parser would turn these into other white space.
            '\t' | '\n' | '\r' => {
                write!(escaped, "&#{};", character as u32).expect("a string takes all");
            }
            character => escaped.push(character),
        }
    }
    Ok(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_words_are_quoted() {
        let quoted = |bytes: &[u8]| systemd_quoted(OsStr::from_bytes(bytes), "$$");
        assert_eq!(quoted(b"/usr/bin/ark"), r#""/usr/bin/ark""#);
        assert_eq!(quoted(b"/a b/\"c\"\\d"), r#""/a b/\"c\"\\d""#);
        assert_eq!(quoted(b"/50%/$HOME"), r#""/50%%/$$HOME""#);
        assert_eq!(quoted(b"/a\nb\xffc"), r#""/a\x0ab\xffc""#);
        assert_eq!(quoted("/ü".as_bytes()), "\"/ü\"");
        let unit = systemd(Path::new("/opt/$x/ark"), Path::new("/etc/$x.toml"));
        // With it no directory could be made in one whose set-gid bit is inherited.
        assert!(!unit.contains("RestrictSUIDSGID"));
        assert!(unit.contains("ExecStart=\"/opt/$x/ark\" --config \"/etc/$$x.toml\"\n"), "{unit}");
    }

    #[test]
    fn property_lists_are_escaped() {
        let plist = launchd(Path::new("/a & b/ark"), Path::new("/<c>/\n.toml"), Path::new("/l"))
            .expect("text");
        assert!(plist.contains("<string>/a &amp; b/ark</string>"), "{plist}");
        assert!(plist.contains("<string>/&lt;c&gt;/&#10;.toml</string>"), "{plist}");
        for wrong in [&b"/\xff"[..], b"/\x01"] {
            let path = Path::new(OsStr::from_bytes(wrong));
            assert!(launchd(path, Path::new("/c"), Path::new("/l")).is_err(), "{path:?}");
        }
    }
}
