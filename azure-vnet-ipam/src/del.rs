//! DEL: the attachment's address is free again.

use azure_vnet_cni::Del;

use crate::{config, error::Error, pool::Key, store::Store};

/// Gives back what the attachment has, which may be nothing. Neither the source nor the namespace nor a valid
/// `ipam` section is needed.
pub fn del(request: &Del) -> Result<(), Error> {
    let key = Key::new(request.conf.name(), &request.container_id, &request.ifname);
    let store = Store::new(&config::state_dir(&request.conf));
    if !store.exists() {
        return Ok(());
    }
    let mut locked = store.lock()?;
    if locked.state.pool.release(&key) || locked.is_healed() {
        locked.commit()?;
    }
    Ok(())
}
