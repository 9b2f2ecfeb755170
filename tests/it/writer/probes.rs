//! `/health` and `/ready` while the database says nothing.

use tokio::time::Instant;

use super::{Service, migrated};
use crate::support::wait::SOON;
use crate::support::{Direction, Postgres, Proxy, eventually, http};

#[tokio::test]
async fn probes_are_answered_in_time_however_many_ask_while_the_database_is_silent() {
    let postgres = Postgres::shared().await;
    let proxy = Proxy::to(postgres.port()).await;
    let database = migrated(postgres).await;
    let url = database.url_through(proxy.port());
    let service = Service::start_with(database, &[("DATABASE_URL", &url), ("SERVER_TIMEOUT", "2s")]).await;
    assert_eq!(service.get("/health").await.status, 200);
    proxy.stall(Direction::Both);
    let begun = Instant::now();
    let probes: Vec<_> = (0..30)
        .map(|n| {
            let (address, path) = (service.address, ["/health", "/ready"][n % 2]);
            tokio::spawn(async move { (http::get(address, path).await.unwrap(), begun.elapsed()) })
        })
        .collect();
    for probe in probes {
        let (answer, took) = probe.await.unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        let said = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(said.contains("does not answer within"), "{said}");
        // One after the other, with 3 s each, they would take three times as long.
        assert!(took < SOON, "{took:?}");
    }
    proxy.resume();
    eventually(SOON, "it is well again", async || (service.get("/health").await.status == 200).then_some(()))
        .await;
}
