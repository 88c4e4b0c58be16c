//! DEL: the attachment's address is free again.

use azure_vnet_cni::Del;

use crate::{
    config,
    error::Error,
    pool::Key,
    store::{self, Store},
    warn,
};

/// Gives back what the attachment has, which may be nothing. Neither the source nor the namespace nor a valid
/// `ipam` section is needed.
pub fn del(request: &Del) -> Result<(), Error> {
    let key = Key::new(request.conf.name(), &request.container_id, &request.ifname);
    let store = Store::new(&config::state_dir(&request.conf));
    if !store.exists() {
        return Ok(());
    }
    let mut locked = match store.lock() {
        // An error would keep the pod from ever being removed, and there is nothing left to release: ADD
        // refuses to work until an operator has replaced the state.
        Err(cause @ store::Error::Unreadable { .. }) => {
            warn(cause);
            return Ok(());
        }
        other => other?,
    };
    if locked.state.pool.release(&key) {
        locked.commit()?;
    }
    Ok(())
}
