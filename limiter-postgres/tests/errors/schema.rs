//! What is in the way of the schema, or in place of a state.

use crate::common::{ask, fresh, is, patient, sql, taken};
use crate::{TEN, refused, took_only};
use limiter_core::{Backend, Effect, ErrorKind};

/// Damage that numbers out of range do not show.
#[tokio::test]
async fn a_log_whose_entries_are_missing_is_a_fresh_one() {
    let (server, postgres) = fresh().await;
    let log = "5/day sliding-log";
    for (i, damage) in
        ["DELETE FROM rate_limits_log", "UPDATE rate_limits SET b = 0", "UPDATE rate_limits SET c = 0"]
            .into_iter()
            .enumerate()
    {
        let key = i.to_string();
        for _ in 0..5 {
            assert!(ask(&postgres, log, &key).await.expect("an answer").allowed());
        }
        assert!(!ask(&postgres, log, &key).await.expect("an answer").allowed());
        sql(&server, damage);
        let before = postgres.corrupt_states();
        assert_eq!(taken(&postgres, log, &key).await, 0, "{damage}");
        assert_eq!(postgres.corrupt_states() - before, 1, "{damage}: seen by a peek");
        assert!(ask(&postgres, log, &key).await.expect("an answer").allowed(), "{damage}");
        assert_eq!(postgres.corrupt_states() - before, 2, "{damage}: seen by what heals it");
        assert_eq!(taken(&postgres, log, &key).await, 1, "{damage}");
        for _ in 0..4 {
            assert!(ask(&postgres, log, &key).await.expect("an answer").allowed(), "{damage}");
        }
        assert!(!ask(&postgres, log, &key).await.expect("an answer").allowed(), "{damage}");
        assert_eq!(postgres.corrupt_states() - before, 2, "{damage}: healed");
    }
}

/// By whoever has more permissions than sense.
#[tokio::test]
async fn a_table_that_was_altered() {
    let (server, postgres) = fresh().await;
    postgres.ready().await.expect("a store that can be used");
    sql(&server, "ALTER TABLE rate_limits_meta ALTER version TYPE bigint");
    let error = postgres.ready().await.expect_err("another type than was prepared for");
    is(&error, ErrorKind::Config, Effect::NotApplied, "0A000");
    sql(&server, "ALTER TABLE rate_limits ADD CONSTRAINT own CHECK (expires < 0) NOT VALID");
    is(&refused(&postgres).await, ErrorKind::Corrupt, Effect::NotApplied, "23514");
    sql(
        &server,
        "ALTER TABLE rate_limits DROP CONSTRAINT own; TRUNCATE rate_limits; ALTER TABLE rate_limits ALTER expires TYPE int",
    );
    is(&refused(&postgres).await, ErrorKind::Corrupt, Effect::NotApplied, "22003");
    sql(&server, "ALTER TABLE rate_limits ALTER expires TYPE bigint");
    took_only(&postgres, 0).await;
}

#[tokio::test]
async fn a_table_that_is_damaged_and_one_that_is_gone() {
    let (server, postgres) = fresh().await;
    let _ = ask(&postgres, TEN, "a").await.expect("an answer");
    let path =
        server.folder().join("data").join(sql(&server, "SELECT pg_relation_filepath('rate_limits_pkey')"));
    for code in ["XX001", "58P01"] {
        // Nothing is written anew behind it.
        sql(&server, "CHECKPOINT");
        server.kill();
        if code == "XX001" {
            std::fs::write(&path, [0x5a; 1 << 14]).expect("a file of the server's");
        } else {
            std::fs::remove_file(&path).expect("a file of the server's");
        }
        server.restart().unwrap_or_else(|error| panic!("{error}"));
        let postgres = patient(server.url()).build().expect("a store");
        is(&refused(&postgres).await, ErrorKind::Unavailable, Effect::NotApplied, code);
    }
}
