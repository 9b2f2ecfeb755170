//! The document at `/openapi.json`, held against the running service by Schemathesis, which makes up
//! thousands of requests from it, good and bad, and judges the answers.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::Service;

/// Pinned: a newer one may judge more, and that should be a change of its own.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// Where `scripts/` keeps what they fetched.
fn cache() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/fetch-postgres");
    let output = std::process::Command::new(script).output().expect("run scripts/fetch-postgres");
    Path::new(String::from_utf8(output.stdout).unwrap().trim()).parent().unwrap().to_owned()
}

/// The program, installed on first use; the error names what is missing.
async fn schemathesis() -> Result<PathBuf, String> {
    let cache = tokio::task::spawn_blocking(cache).await.unwrap();
    let home = cache.join(SCHEMATHESIS.replace("==", "-"));
    let program = home.join("bin/schemathesis");
    // A lock, because other test processes may want it at the same time; the last step says that it is whole.
    let script = format!(
        "exec 9>'{home}.lock'; flock 9
         [ -e '{home}/whole' ] && exit 0
         rm -rf '{home}'
         python3 -m venv '{home}' && '{home}/bin/pip' install --quiet --disable-pip-version-check '{SCHEMATHESIS}' \
             && touch '{home}/whole'",
        home = home.display()
    );
    let installed = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output();
    let output =
        timeout(Duration::from_secs(300), installed).await.map_err(|_| "PyPI does not answer".to_owned())?;
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(program)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test]
async fn schemathesis_finds_no_violation_of_the_openapi_document() {
    let program = match schemathesis().await {
        Ok(program) => program,
        Err(missing) => {
            let words = format!("{SCHEMATHESIS} cannot be installed with python3 from PyPI: {missing}");
            assert!(std::env::var_os("CI").is_none(), "{words}");
            // Not by `println!`, which a test that passes keeps for itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {words}");
            return;
        }
    };
    let service = Service::start().await;
    let url = format!("http://{}/openapi.json", service.address);
    let directory = tempfile::tempdir().unwrap();
    let run = Command::new(program)
        .args(["run", &url, "--checks", "all", "--max-examples", "40", "--seed", "1"])
        .args([
            "--mode",
            "all",
            "--generation-allow-x00",
            "false",
            "--no-color",
            "--suppress-health-check",
            "all",
        ])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output();
    let output = timeout(Duration::from_secs(300), run).await.expect("schemathesis ends").unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    let stored = service.count("orders").await;
    assert!(stored > 5, "it got orders in: {stored}\n{said}");
    service.stop().await;
}
