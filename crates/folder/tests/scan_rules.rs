//! What a scan makes of ignore rules, and of rules that change under it.

mod scanning;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ark_core::RelPath;
use ark_folder::ignore::{FormerRules, Learned, Rules};
use ark_folder::scan::{Entering, Extent, Kept, ScanError};
use scanning::{Folder, changed, found, gone, path};

#[test]
fn what_is_ignored_is_neither_found_nor_gone() {
    let mut folder = Folder::new();
    folder.rules = Arc::new(Rules::new(&["*.tmp", "/only-top"]).unwrap());
    for name in ["a.tmp", "d/b.tmp", "only-top", "d/only-top", "keep", "target/x", "d/target/y"] {
        folder.write(name, b"1");
    }
    let result = folder.scan_and_record();
    assert_eq!(found(&result).join(" "), "d d/only-top d/target d/target/y keep target target/x");

    // Rules added: what was synced stays in base if it is there, and is no removal if not.
    folder.write(".arkignore", b"target/\n*.log\n!important.log\n{bad\n");
    folder.write("d/.arkignore", b"!z.log\n");
    for name in ["x.log", "important.log", "d/y.log", "d/z.log", "d/target/new"] {
        folder.write(name, b"1");
    }
    fs::remove_dir_all(folder.at("target")).unwrap();
    let result = folder.scan(&changed([".arkignore"]));
    assert_eq!(found(&result), [".arkignore", "d/.arkignore", "d/z.log", "important.log"]);
    assert_eq!(gone(&result), Vec::<String>::new());
    assert_eq!(result.forgotten, ["target", "target/x"].map(path));
    assert_eq!(result.notes.len(), 1, "{:?}", result.notes);
    assert!(result.notes[0].contains("line 4"));
    folder.record(&result);
    folder.settle();
    let by_path = folder.scan(&changed(["target/x", "target", "d/target/new", "a.tmp"]));
    assert_eq!((found(&by_path), gone(&by_path)), (vec![], vec![]));

    // Rules removed again.
    fs::remove_file(folder.at(".arkignore")).unwrap();
    let result = folder.scan(&changed([".arkignore"]));
    assert_eq!(found(&result), ["d/target/new", "d/y.log", "x.log"]);
    assert_eq!(gone(&result), [".arkignore"]);
}

#[test]
fn rules_that_cannot_be_used_keep_what_they_govern() {
    let mut folder = Folder::new();
    folder.write("d/x", b"1");
    folder.scan_and_record();
    folder.write("d/.arkignore", &vec![b'#'; (1 << 20) + 1]);
    folder.write("d/new", b"secret?");
    fs::remove_file(folder.at("d/x")).unwrap();
    for extent in [Extent::Everything, changed(["d/new", "d/x"])] {
        let result = folder.scan(&extent);
        assert_eq!((found(&result), gone(&result)), (vec![], vec![]));
        assert!(matches!(&result.kept[&path("d")], Kept::Unreadable(_)));
    }
}

#[test]
fn what_is_ignored_and_not_there_is_forgotten_not_gone() {
    let mut folder = Folder::new();
    for name in ["photos/a", "photos/in/b", "photos/stays", "was-dir/c", "one.log", "two.log"] {
        folder.write(name, name.as_bytes());
    }
    folder.scan_and_record();

    folder.rules = Arc::new(Rules::new(&["photos/", "was-dir", "*.log"]).unwrap());
    fs::remove_file(folder.at("photos/a")).unwrap();
    fs::remove_dir_all(folder.at("photos/in")).unwrap();
    fs::remove_dir_all(folder.at("was-dir")).unwrap();
    folder.write("was-dir", b"a file now");
    fs::remove_file(folder.at("one.log")).unwrap();

    let forgotten = ["one.log", "photos/a", "photos/in", "photos/in/b", "was-dir/c"].map(path);
    let result = folder.scan(&Extent::Everything);
    assert_eq!((found(&result), gone(&result)), (vec![], vec![]));
    assert_eq!(result.forgotten, forgotten);

    let touched = changed(["one.log", "photos/a", "photos/in/b", "photos/stays", "two.log"]);
    let result = folder.scan(&touched);
    assert_eq!((found(&result), gone(&result)), (vec![], vec![]));
    assert_eq!(result.forgotten, ["one.log", "photos/a", "photos/in/b"].map(path));

    fs::remove_dir_all(folder.at("photos")).unwrap();
    let result = folder.scan(&changed(["photos"]));
    let all = ["photos", "photos/a", "photos/in", "photos/in/b", "photos/stays"].map(path);
    assert_eq!((gone(&result), result.forgotten), (vec![], all.to_vec()));
}

#[test]
fn what_went_while_it_was_ignored_is_forgotten_by_the_scan_that_finds_the_rule_gone() {
    let mut folder = Folder::new();
    for name in ["d/photos/a", "d/other", "stays", "goes"] {
        folder.write(name, name.as_bytes());
    }
    folder.scan_and_record();
    folder.write("d/.arkignore", b"photos/\n");
    folder.scan_and_record();
    fs::remove_dir_all(folder.at("d/photos")).unwrap();
    fs::remove_file(folder.at("d/.arkignore")).unwrap();
    fs::remove_file(folder.at("d/other")).unwrap();

    // A look at a single path does not settle what became of the others.
    assert_eq!(gone(&folder.scan(&changed(["d/other"]))), ["d/other"]);
    let result = folder.scan(&changed(["d/.arkignore"]));
    assert_eq!(gone(&result), ["d/.arkignore", "d/other"]);
    assert_eq!(result.forgotten, ["d/photos", "d/photos/a"].map(path));
    folder.record(&result);

    // The same by a rule of the config, that goes over a restart.
    let config = vec!["goes".to_owned(), "{".to_owned()];
    let former = FormerRules { config, ..FormerRules::default() };
    folder.rules = Arc::new(Rules::with_former::<&str>(&[], former).unwrap());
    fs::remove_file(folder.at("goes")).unwrap();
    // As often as it is looked at before the result is recorded, as after a failure.
    for _ in 0..2 {
        let result = folder.scan(&Extent::Everything);
        assert_eq!((gone(&result), &result.forgotten), (vec![], &vec![path("goes")]));
    }
    let result = folder.scan(&Extent::Everything);
    folder.rules.learn(&result.learned);
    let later = folder.scan(&Extent::Everything);
    assert_eq!((gone(&later), &later.forgotten), (vec!["goes".to_owned()], &vec![]));
}

/// Does something as the root is entered, by how often it was before.
struct AtTop<F>(AtomicUsize, F);

impl<F: Fn(usize) + Sync> Entering for AtTop<F> {
    fn entering(&self, directory: &RelPath) {
        if directory.is_root() {
            (self.1)(self.0.fetch_add(1, Ordering::Relaxed));
        }
    }
}

#[test]
fn rules_that_are_lost_for_a_moment_let_nothing_out() {
    for is_emptied in [false, true] {
        let mut folder = Folder::new();
        folder.write(".arkignore", b"secret\n");
        folder.scan_and_record();
        folder.write("secret", b"s");
        // Known from what was recorded after a restart, and from an earlier scan.
        for is_new in [true, false] {
            if is_new {
                let former = folder.rules.former_after(&Learned::default());
                folder.rules = Arc::new(Rules::with_former::<&str>(&[], former).unwrap());
            }
            fs::rename(folder.at(".arkignore"), folder.at(".arkignore~")).unwrap();
            if is_emptied {
                folder.write(".arkignore", b"");
            }
            let restored = AtTop(AtomicUsize::new(0), |times| {
                if times == 0 {
                    folder.write(".arkignore", b"secret\nother\n");
                }
            });
            let result = folder.scan_watched(&Extent::Everything, &restored);
            assert_eq!(restored.0.load(Ordering::Relaxed), 2);
            assert_eq!(found(&result), [".arkignore", ".arkignore~"]);
            assert_eq!(gone(&result), Vec::<String>::new());
        }
    }
}

#[test]
fn a_scan_gives_up_where_rules_keep_changing() {
    let mut folder = Folder::new();
    folder.write(".arkignore", b"secret\n");
    folder.scan_and_record();
    folder.write("secret", b"s");
    let changing = AtTop(AtomicUsize::new(1), |times| {
        folder.write(".arkignore", &vec![b'\n'; times]);
    });
    let failed = folder.try_scan_watched(&Extent::Everything, &changing).unwrap_err();
    assert!(matches!(failed, ScanError::RulesInFlux { directory } if directory.is_root()));
}
