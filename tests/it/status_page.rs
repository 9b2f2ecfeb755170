//! The status page in a real browser: it shows what the relay does, goes on by itself, fits a phone, and
//! asks nobody but the relay.

use crate::support::browser::{Browser, chromium};
use crate::support::http::request;
use crate::support::wait::SOON;
use crate::support::{Outbox, eventually};

/// Waits until the page's text contains `wanted`.
async fn shows(browser: &mut Browser, wanted: &str) {
    eventually(SOON, format!("the page shows {wanted:?}"), async || {
        let text = browser.eval("document.body.innerText").await;
        text.as_str().is_some_and(|text| text.contains(wanted)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_status_page_is_live_in_a_browser_on_a_desk_and_on_a_phone() {
    let Some(program) = chromium() else {
        #[allow(clippy::print_stderr, reason = "a test that checks nothing must say so")]
        {
            eprintln!("SKIPPED the_status_page_is_live_in_a_browser: no chromium is installed");
        }
        return;
    };
    let outbox = Outbox::with_slot().await;
    let relay = outbox.streaming(&[], &[("METRICS_ADMIN_TOKEN", "t0ken")]).await;
    let address = format!("http://{}/", relay.admin());
    let mut browser = Browser::start(&program).await;
    browser.screen(1100, 760, false).await;
    browser.open(&address).await;
    shows(&mut browser, "streaming").await;
    shows(&mut browser, outbox.slot()).await;
    shows(&mut browser, "CLOSED").await;
    eventually(SOON, "the slot was looked at", async || {
        (relay.status().await["lag"]["wal_status"] == "reserved").then_some(())
    })
    .await;
    shows(&mut browser, "reserved").await;
    browser.picture("status-light").await;

    // Live: what changes is shown without a reload.
    browser.eval("window.notReloaded = true").await;
    let bearer = [("Authorization", "Bearer t0ken")];
    let answer = request(relay.admin(), "POST", "/breaker/open", &bearer, "").await.unwrap();
    assert_eq!(answer.status, 200);
    shows(&mut browser, "OPEN").await;
    assert_eq!(browser.eval("window.notReloaded").await, true);
    browser.screen(1100, 760, true).await;
    browser.picture("status-dark").await;
    let paper = browser.eval("getComputedStyle(document.body).backgroundColor").await;
    browser.screen(1100, 760, false).await;
    let light = browser.eval("getComputedStyle(document.body).backgroundColor").await;
    assert_ne!(paper, light, "dark and light are different");
    let answer = request(relay.admin(), "POST", "/breaker/close", &bearer, "").await.unwrap();
    assert_eq!(answer.status, 200);
    shows(&mut browser, "CLOSED").await;

    // A phone: nothing is beyond its edge.
    browser.screen(360, 740, false).await;
    browser.picture("status-phone").await;
    let too_wide = browser.eval("document.documentElement.scrollWidth - window.innerWidth").await;
    assert!(too_wide.as_i64().is_some_and(|points| points <= 0), "{too_wide} points too wide");

    assert!(browser.exceptions.is_empty(), "{:?}", browser.exceptions);
    for asked in &browser.requests {
        let inside = asked.starts_with(&address) || asked.starts_with("data:") || asked == "about:blank";
        assert!(inside, "the page asks {asked}");
    }
    // And it says when the relay is gone.
    relay.kill9().await;
    shows(&mut browser, "No answer").await;
}
