//! Figures, not assertions:
//! `cargo test --release -p ark-folder --test figures -- --ignored --nocapture`.

mod syncing;

use std::time::Instant;

use syncing::{Device, pull};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures of 20,000 files with 256 MiB"]
async fn twenty_thousand_files() {
    let (mut a, b) = (Device::new(1), Device::started(2).await);
    let mut filler = blake3::Hasher::new().finalize_xof();
    for number in 0..20_000 {
        let mut content = vec![0; 13_400];
        filler.fill(&mut content);
        a.write(&format!("d{}/e{}/f{number}", number % 10, number % 190), content);
    }
    let said =
        |what: &str, began: Instant| println!("{what}: {:.2} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    a.start().await;
    a.until("scanned", |status| status.scanned).await;
    said("first scan and publish", began);
    let began = Instant::now();
    a.rest().await;
    said("rest (adopt), with a fence", began);
    let began = Instant::now();
    a.folder().fence().await.unwrap();
    said("a fence more", began);
    let began = Instant::now();
    let payload = pull(&a, &b).await;
    said(&format!("pull of {payload:?}"), began);
    let began = Instant::now();
    let joined = syncing::revisions(b.repo());
    b.until("applied", |status| status.applied == joined).await;
    said("apply", began);
    let began = Instant::now();
    b.rest().await;
    said("its rest", began);
    let began = Instant::now();
    a.rename("d3", "renamed");
    a.rest().await;
    pull(&a, &b).await;
    b.rest().await;
    said("a renamed directory of 2,000 files, both sides", began);
    let began = Instant::now();
    a.write("d1/e1/f1", "one edit");
    a.rest().await;
    said("one edit, published, with a fence", began);
    let began = Instant::now();
    a.stop().await;
    a.start().await;
    a.until("scanned", |status| status.scanned).await;
    said("restart with a scan of everything", began);
}
