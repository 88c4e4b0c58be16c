#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tempfile::TempDir;

use super::*;
use crate::pool::{Key, Subnet, Wanted};

fn write(path: &Path, state: &State) {
    document::write(path, &document::encode(state).unwrap()).unwrap();
}

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

/// Also the pool: it may be that of the VM that an image was made of.
#[test]
fn what_is_of_another_boot_is_void() {
    let (dir, store) = used();
    let mut locked = store.lock().unwrap();
    locked.state.boot_id = "another boot".into();
    locked.commit().unwrap();
    drop(locked);
    let mut locked = Store::new(dir.path()).lock().unwrap();
    assert!(!holds(&locked.state, "c1"));
    assert!(!locked.state.has_snapshot());
    assert_eq!(locked.state.pool, Pool::default());
    locked.state.learn(subnets(), 2000);
    assert_eq!(
        lease(&mut locked.state, "c2"),
        std::net::Ipv4Addr::new(10, 0, 0, 10)
    );
}

/// Every way in which the bytes of a file can be wrong.
fn broken(good: &[u8]) -> [Vec<u8>; 6] {
    let mut flipped = good.to_vec();
    // The pool's prefix: the same digits may be in the boot's identifier, and leases of another boot are void.
    let prefix = good.windows(4).position(|digits| digits == b"\"10.");
    flipped[prefix.unwrap() + 1] = b'2';
    let newer = String::from_utf8(good.to_vec()).unwrap();
    let newer = newer.replace("\"version\":1", "\"version\":2");
    [
        flipped,
        good[..good.len() / 2].to_vec(),
        vec![0; good.len()],
        b"{}".to_vec(),
        newer.into_bytes(),
        vec![],
    ]
}

#[test]
fn a_damaged_record_is_replaced_by_its_backup() {
    let (dir, store) = used();
    let path = record_path(dir.path());
    for damaged in broken(&fs::read(&path).unwrap()) {
        fs::write(&path, &damaged).unwrap();
        let mut locked = store.lock().unwrap();
        assert!(holds(&locked.state, "c1") && locked.is_healed());
        locked.commit().unwrap();
        drop(locked);
        assert!(document::read(&path).unwrap().is_ok());
        assert!(!store.lock().unwrap().is_healed());
        assert_eq!(
            fs::read(dir.path().join("ipam.json.damaged")).unwrap(),
            damaged
        );
    }
    fs::remove_file(&path).unwrap();
    assert!(holds(&store.lock().unwrap().state, "c1"));
}

/// What is whole in either file counts: nothing in use is forgotten.
#[test]
fn two_damaged_files_give_what_is_left_in_them() {
    let (dir, store) = used();
    let good = fs::read(record_path(dir.path())).unwrap();
    let [flipped, .., newer, _] = broken(&good);
    let without_end = good[..good.len() - 9].to_vec();
    for damaged in [flipped, newer, without_end] {
        for other in [b"{".to_vec(), vec![], vec![0; 100], damaged.clone()] {
            fs::write(record_path(dir.path()), &damaged).unwrap();
            fs::write(backup_path(dir.path()), &other).unwrap();
            assert!(holds(&store.lock().unwrap().state, "c1"));
            fs::write(record_path(dir.path()), &other).unwrap();
            fs::write(backup_path(dir.path()), &damaged).unwrap();
            assert!(holds(&store.lock().unwrap().state, "c1"));
        }
    }
    let nobody = store.read().unwrap();
    assert!(!nobody.has_snapshot(), "the source is asked again");
}

#[test]
fn leases_of_another_boot_are_not_picked_from_a_damaged_file() {
    let (dir, store) = used();
    let good = fs::read_to_string(record_path(dir.path())).unwrap();
    let other = good.replace(boot_id().unwrap().as_str(), "another boot");
    for path in [record_path(dir.path()), backup_path(dir.path())] {
        fs::write(path, &other).unwrap();
    }
    assert!(!holds(&store.lock().unwrap().state, "c1"));
}

/// The network plugin's records have the names, as long as the link is there.
#[test]
fn a_lost_record_is_made_again_from_the_links_of_pods() {
    let dir = TempDir::new().unwrap();
    let attachments = dir.path().join("attachments");
    fs::create_dir(&attachments).unwrap();
    let attachment = |container: &str, veth: &str, address: &str| {
        let text = format!(
            r#"{{"network":"azure","container_id":"{container}","ifname":"eth0","netns":"/x","host_veth":"{veth}",
               "bridge":"azure0","address":"{address}","mac":"0a:58:0a:00:00:05"}}"#
        );
        fs::write(attachments.join(format!("{container}.json")), text).unwrap();
    };
    attachment("alive", "lo", "10.0.0.15");
    attachment("gone", "azv00000000000", "10.0.0.16");
    attachment("odd", "../lo", "10.0.0.17");
    fs::write(attachments.join("torn.json"), "{").unwrap();
    let store = Store::new(dir.path());
    let mut state = store.lock().unwrap().state;
    assert!(!holds(&state, "gone") && !holds(&state, "odd"));
    let [lease] = &state.pool.of(&key("alive")).into_iter().collect::<Vec<_>>()[..] else {
        panic!("{state:?}")
    };
    assert!(!lease.is_subnet_known());
    state.learn(subnets(), 1);
    let lease = state.pool.of(&key("alive")).unwrap();
    assert_eq!(lease.address_in_subnet().to_string(), "10.0.0.15/24");
}

/// A crash between the two renames: the backup is one write ahead.
#[test]
fn a_backup_that_is_ahead_does_no_harm() {
    let (dir, store) = used();
    let mut ahead = store.lock().unwrap().state.clone();
    lease(&mut ahead, "c2");
    ahead.generation += 1;
    write(&backup_path(dir.path()), &ahead);
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
    assert!(matches!(
        store.lock_within(SHORT),
        Err(Error::Lock(LockError::Busy { .. }))
    ));
    drop(locked);
    assert!(store.lock_within(SHORT).is_ok());
}

#[test]
fn when_to_ask_again() {
    let minute = Duration::from_mins(1);
    let mut state = State::default();
    assert!(state.is_due(1_000, minute));
    state.learn(subnets(), 1_000);
    assert!(!state.is_due(1_000, minute) && !state.is_due(60_999, minute));
    assert!(state.is_due(61_000, minute));
    assert!(state.is_due(999, minute), "the clock went back");
    assert!(state.is_due(1_000, Duration::ZERO));
    state.asked_at = 61_000;
    assert!(!state.is_due(120_000, minute), "asked in vain a moment ago");
}

#[test]
fn a_late_answer_does_not_replace_a_newer_one() {
    let mut state = State::default();
    state.learn(subnets(), 1000);
    state.learn(vec![], 999);
    assert_eq!(state.fetched_at, 1000);
    lease(&mut state, "c1");
}
