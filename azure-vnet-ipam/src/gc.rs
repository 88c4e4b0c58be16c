//! GC: the addresses of attachments that are gone are free again.

use azure_vnet_cni::Gc;

use crate::{config, error::Error, pool::Key, store::Store, warn};

/// Gives back every address of this network that no valid attachment has. Other networks are not looked at.
pub fn gc(request: &Gc) -> Result<(), Error> {
    let network = request.conf.name();
    let store = Store::new(&config::state_dir(&request.conf));
    if !store.exists() {
        return Ok(());
    }
    let valid = request.valid.iter();
    let valid = valid
        .map(|attachment| Key::new(network, &attachment.container_id, &attachment.ifname))
        .collect();
    let mut locked = store.lock()?;
    let released = locked.state.pool.release_all_but(network, &valid);
    if released.is_empty() {
        return Ok(());
    }
    locked.commit()?;
    for lease in &released {
        warn(format_args!("GC frees {} of {}", lease.address, lease.key));
    }
    Ok(())
}
