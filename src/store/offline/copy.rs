//! Records from one store to another.

use crate::hooks::{Store, StoreError, Table, Write};
use crate::store::batches::Batches;

/// Copies every record as it is, damaged ones too; gives how many there are.
///
/// # Errors
/// What cannot be read or written.
pub fn copy(from: &dyn Store, to: &mut dyn Store) -> Result<u64, StoreError> {
    let mut batches = Batches::new(to);
    for table in Table::ALL {
        let mut done = Ok(());
        from.scan(table, &mut |key, value| {
            if done.is_ok() {
                let (key, value) = (key.into(), Some(value.to_vec()));
                done = batches.put(Write { table, key, value, fresh: false });
            }
        })?;
        done?;
    }
    batches.finish()
}
