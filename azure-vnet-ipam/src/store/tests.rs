#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tempfile::TempDir;

use super::*;
use crate::pool::{Key, Wanted};

const SHORT: Duration = Duration::from_millis(30);

/// A store with a pool of ten addresses, of which `c1` has one.
fn used() -> (TempDir, Store) {
    let dir = TempDir::new().unwrap();
    let store = Store::new(dir.path());
    let mut locked = store.lock().unwrap();
    locked.state.learn(subnets(), 1000);
    lease(&mut locked.state, "c1");
    locked.commit().unwrap();
    drop(locked);
    (dir, store)
}

fn subnets() -> Vec<Subnet> {
    let addresses = (10..20).map(|host| [10, 0, 0, host].into());
    vec![Subnet {
        prefix: "10.0.0.0/24".parse().unwrap(),
        nic: None,
        primary: true,
        addresses: addresses.collect(),
    }]
}

fn key(container: &str) -> Key {
    Key::new("azure", container, "eth0")
}

fn lease(state: &mut State, container: &str) -> std::net::Ipv4Addr {
    let lease = state.pool.lease(&key(container), &Wanted::default());
    lease.unwrap().address
}

fn holds(state: &State, container: &str) -> bool {
    let held = state.pool.held(&key(container), &Wanted::default());
    held.unwrap().is_some()
}

#[test]
fn what_was_committed_is_read_again() {
    let (_dir, store) = used();
    let locked = store.lock().unwrap();
    assert!(holds(&locked.state, "c1"));
    assert_eq!(locked.state.generation, 1);
    assert!(locked.state.has_snapshot());
}

#[test]
fn what_was_not_committed_is_forgotten() {
    let (_dir, store) = used();
    lease(&mut store.lock().unwrap().state, "c2");
    assert!(!holds(&store.lock().unwrap().state, "c2"));
}

#[test]
fn a_boot_frees_every_address_and_keeps_the_pool() {
    let (dir, store) = used();
    let mut locked = store.lock().unwrap();
    locked.state.boot_id = "another boot".into();
    locked.commit().unwrap();
    drop(locked);
    let mut locked = Store::new(dir.path()).lock().unwrap();
    assert!(!holds(&locked.state, "c1"));
    assert!(locked.state.has_snapshot());
    assert_eq!(
        lease(&mut locked.state, "c2"),
        std::net::Ipv4Addr::new(10, 0, 0, 10)
    );
}

/// Every way a file can be broken: the record is healed from the backup and nothing in use is forgotten.
#[test]
fn a_damaged_record_is_replaced_by_its_backup() {
    let (dir, store) = used();
    let path = record_path(dir.path());
    let good = fs::read(&path).unwrap();
    let mut flipped = good.clone();
    let digit = good.windows(2).position(|pair| pair == b"10").unwrap();
    flipped[digit] = b'2';
    let newer = String::from_utf8(good.clone()).unwrap();
    let newer = newer.replace("\"version\":1", "\"version\":2");
    for damaged in [
        flipped,
        good[..good.len() / 2].to_vec(),
        vec![0; good.len()],
        b"{}".to_vec(),
        newer.into_bytes(),
        vec![],
    ] {
        fs::write(&path, &damaged).unwrap();
        let mut locked = store.lock().unwrap();
        assert!(holds(&locked.state, "c1"));
        locked.commit().unwrap();
        drop(locked);
        assert!(document::read(&path).unwrap().unwrap().is_some());
    }
    fs::remove_file(&path).unwrap();
    assert!(holds(&store.lock().unwrap().state, "c1"));
}

#[test]
fn two_damaged_files_are_refused_with_what_to_do() {
    let (dir, store) = used();
    fs::write(record_path(dir.path()), "{").unwrap();
    fs::write(backup_path(dir.path()), [0; 100]).unwrap();
    let error = store.lock().unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }));
    assert!(error.to_string().contains("remove both files"), "{error}");
    fs::remove_file(backup_path(dir.path())).unwrap();
    assert!(matches!(store.lock(), Err(Error::Unreadable { .. })));
}

/// A crash between the two renames: the backup is one write ahead.
#[test]
fn a_backup_that_is_ahead_does_no_harm() {
    let (dir, store) = used();
    let mut ahead = store.lock().unwrap().state.clone();
    lease(&mut ahead, "c2");
    ahead.generation += 1;
    document::write(&backup_path(dir.path()), &ahead).unwrap();
    let mut locked = store.lock().unwrap();
    assert!(holds(&locked.state, "c1") && !holds(&locked.state, "c2"));
    locked.commit().unwrap();
    drop(locked);
    fs::write(record_path(dir.path()), "x").unwrap();
    let locked = store.lock().unwrap();
    assert!(holds(&locked.state, "c1") && !holds(&locked.state, "c2"));
}

#[test]
fn only_one_process_has_the_record() {
    let (_dir, store) = used();
    let locked = store.lock().unwrap();
    assert!(matches!(store.lock_within(SHORT), Err(Error::Busy { .. })));
    drop(locked);
    assert!(store.lock_within(SHORT).is_ok());
}

#[test]
fn when_to_ask_again() {
    let minute = Duration::from_mins(1);
    let mut state = State::default();
    assert!(state.is_due(1000, minute));
    state.learn(subnets(), 1000);
    assert!(!state.is_due(1000, minute) && !state.is_due(1059, minute));
    assert!(state.is_due(1060, minute));
    assert!(state.is_due(999, minute), "the clock went back");
    assert!(state.is_due(1000, Duration::ZERO));
    state.asked_at = 1060;
    assert!(!state.is_due(1100, minute), "asked in vain a moment ago");
}

#[test]
fn a_late_answer_does_not_replace_a_newer_one() {
    let mut state = State::default();
    state.learn(subnets(), 1000);
    state.learn(vec![], 999);
    assert_eq!(state.fetched_at, 1000);
    lease(&mut state, "c1");
}
