//! A config that is changed under a running daemon.

use std::fs;
use std::net::UdpSocket;

use ark_testkit::daemon::{Daemon, Machine, Setup};
use ark_testkit::tree::await_condition;
use rustix::process::Signal;

use super::{BINARY, LIMIT, alone};

#[test]
fn a_wrong_config_does_not_end_a_running_daemon() {
    let machine = alone();
    let daemon = machine.start();
    let good = fs::read_to_string(machine.config()).expect("the config");
    fs::write(machine.config(), format!("{good}\ncolour = 1\n")).expect("the config");
    daemon.signal(Signal::HUP);
    await_condition("the log names the error", LIMIT, || {
        machine.log().contains("colour: unknown key").then_some(())
    });
    fs::write(machine.config(), good).expect("the config");
    daemon.signal(Signal::HUP);
    await_condition("the log says that all is well", LIMIT, || {
        machine.log().contains("the config has not changed").then_some(())
    });
    assert!(machine.try_status().is_some());
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn repos_and_remotes_come_and_go_without_a_restart() {
    let setup = Setup::default();
    let (a, b) = (Machine::new(BINARY, "a", None), Machine::new(BINARY, "b", None));
    let use_config = |remotes: bool, more: &str, daemons: [&Daemon<'_>; 2]| {
        for (machine, other, daemon) in [(&a, &b, daemons[0]), (&b, &a, daemons[1])] {
            let others: &[&Machine] = if remotes { &[other] } else { &[] };
            let more = more.replace("OTHER", &others.iter().map(|it| it.id()).collect::<String>());
            fs::write(machine.config(), machine.config_text(others, &setup) + &more).unwrap();
            daemon.signal(Signal::HUP);
        }
    };
    let in_use = |repos: usize, peers: usize| {
        for machine in [&a, &b] {
            await_condition("the config is in use", LIMIT, || {
                let status = machine.try_status()?;
                let count = |of: &str| Some(status[of].as_array()?.len());
                (count("repos")? == repos && count("peers")? == peers).then_some(())
            });
        }
    };
    for machine in [&a, &b] {
        machine.configure(&[], &setup);
        fs::create_dir(machine.directory().join("second")).expect("a folder");
    }
    let (on_a, on_b) = (a.start(), b.start());
    // Remotes come.
    let large = vec![7; 1 << 20];
    a.write("file", &large);
    use_config(true, "", [&on_a, &on_b]);
    in_use(1, 1);
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert!(b.read("file") == Some(large));
    let sent = a.traffic().1;
    // A repo comes.
    let second = "[[repos]]\nid = \"second\"\nremotes = [{ name = \"other\", node_id = \"OTHER\" }]\n\
                  [repos.folder]\npath = \"./second\"\n";
    fs::write(a.directory().join("second/file"), "two").expect("a file");
    use_config(true, second, [&on_a, &on_b]);
    in_use(2, 1);
    a.wait(LIMIT);
    b.wait(LIMIT);
    assert_eq!(fs::read(b.directory().join("second/file")).expect("it came"), b"two");
    assert!(a.traffic().1 > sent, "counts go on");
    // It goes, and what was in its folder stays; the other one goes on.
    use_config(true, "", [&on_a, &on_b]);
    in_use(1, 1);
    a.write("file", "three");
    a.wait(LIMIT);
    assert_eq!(b.read("file").as_deref(), Some(&b"three"[..]));
    assert_eq!(fs::read(b.directory().join("second/file")).expect("it stays"), b"two");
    // A remote goes, on one side: the other is refused there.
    a.configure(&[], &setup);
    on_a.signal(Signal::HUP);
    await_condition("a shows b as refused", LIMIT, || {
        let status = a.try_status()?;
        (status["refused"][0]["node_id"] == b.id()).then_some(())
    });
    for daemon in [on_a, on_b] {
        assert_eq!(daemon.stop().code(), Some(0));
    }
    for machine in [&a, &b] {
        assert!(!machine.log().contains("ERROR"), "{}", machine.log());
    }
}

#[test]
fn who_is_listed_as_before_stays_connected() {
    let setup = Setup::default();
    let [a, b, c] = ["a", "b", "c"].map(|name| Machine::new(BINARY, name, None));
    // The first knows nobody's address, so that no two dials cross when they start.
    let list = |others: &[&Machine]| {
        let text = others.iter().fold(a.config_text(others, &setup), |text, other| {
            text.replace(&format!(", addrs = [\"127.0.0.1:{}\"]", other.port()), "")
        });
        fs::write(a.config(), text).expect("the config");
    };
    list(&[&b]);
    b.configure(&[&a], &setup);
    c.configure(&[&a], &setup);
    let daemons = [a.start(), b.start(), c.start()];
    a.write("file", "one");
    b.await_file("file", Some("one"), LIMIT);
    for (others, content) in [(&[&b, &c][..], "two"), (&[&b], "three")] {
        list(others);
        daemons[0].re_read();
        await_condition("the config is in use", LIMIT, || {
            (a.try_status()?["peers"].as_array()?.len() == others.len()).then_some(())
        });
        a.write("file", content);
        for other in others {
            other.await_file("file", Some(content), LIMIT);
        }
        a.wait(LIMIT);
        b.wait(LIMIT);
    }
    assert!(!b.log().contains("disconnected"), "{}", b.log());
    assert_eq!(c.read("file").as_deref(), Some(&b"two"[..]));
    // It is told by one packet, and would miss the connection in the end.
    await_condition("who is listed no more sees it", LIMIT, || {
        c.log().contains("disconnected").then_some(())
    });
    for daemon in daemons {
        assert_eq!(daemon.stop().code(), Some(0));
    }
}

#[test]
fn a_config_that_cannot_work_does_not_end_a_running_daemon() {
    let machine = alone();
    let daemon = machine.start();
    let good = fs::read_to_string(machine.config()).expect("the config");
    let address = format!("127.0.0.1:{}", machine.port());
    let own = format!("remotes = [\n  {{ name = \"me\", node_id = \"{}\" }},", machine.id());
    // Not an address of any machine: it is one of those that documents use.
    let absent = format!("192.0.2.1:{}", machine.port());
    for (text, complaint) in [
        (good.replace("remotes = [", &own), "is this device itself"),
        (good.replace(&address, &absent), absent.as_str()),
    ] {
        fs::write(machine.config(), text).expect("the config");
        daemon.signal(Signal::HUP);
        await_condition("the log names the error", LIMIT, || {
            let log = machine.log();
            log.contains(complaint).then(|| assert!(log.contains("going on with the old"), "{log}"))
        });
        assert!(!machine.log().contains("the config has changed"), "{}", machine.log());
    }
    fs::write(machine.config(), &good).expect("the config");
    assert!(machine.try_status().is_some(), "{}", machine.log());
    // The port is the daemon's own, so that this can be told only when that is given up.
    let any = format!("0.0.0.0:{}", machine.port());
    let taken = UdpSocket::bind(("127.0.0.2", machine.port())).expect("the port");
    fs::write(machine.config(), good.replace(&address, &any)).expect("the config");
    daemon.signal(Signal::HUP);
    await_condition("the old config is in use again", LIMIT, || {
        machine.log().contains("the old config is in use again").then_some(())
    });
    let listening = |address: &str| {
        await_condition("it listens there", LIMIT, || {
            let status = machine.try_status()?;
            (status["listening"].as_array()?.iter().any(|it| it == address)).then_some(())
        });
    };
    listening(&address);
    machine.write("file", "one");
    await_condition("the folder goes on", LIMIT, || {
        (machine.status()["repos"][0]["files"] == 1).then_some(())
    });
    drop(taken);
    daemon.signal(Signal::HUP);
    listening(&any);
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_config_that_is_changed_during_the_start_is_taken_up_after_it() {
    let machine = alone();
    let daemon = machine.start_unawaited();
    await_condition("it has read its config", LIMIT, || {
        assert!(daemon.is_running(), "{}", machine.log());
        machine.log().contains("opening").then_some(())
    });
    let text = fs::read_to_string(machine.config()).expect("the config");
    let more = "[[repos]]\nid = \"second\"\nremotes = []\n";
    fs::write(machine.config(), text + more).expect("the config");
    daemon.signal(Signal::HUP);
    await_condition("the config is in use", LIMIT, || {
        (machine.try_status()?["repos"].as_array()?.len() == 2).then_some(())
    });
    assert_eq!(daemon.stop().code(), Some(0));
}
