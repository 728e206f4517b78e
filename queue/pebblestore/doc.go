// Package pebblestore is the queue.Store of one machine, on the embedded LSM engine Pebble.
//
// # Contract
//
// Everything that queue.Store promises. Beyond it:
//
//   - A message is durable when Commit returns, and a settlement when Settle returns, or once the Waiter of Submit or
//     SettleTo is told: the write-ahead log was synced. Pebble's commit pipeline groups the syncs of all callers.
//   - A message's existence is one atomic batch (its entries and its body record). The pieces
//     of a large body are written before it without sync; the order of the log covers them. What a crash
//     leaves of a message without that batch is swept by the next Open.
//   - An entry is handed out only once its commit is durable, in the order of the log.
//   - An error of the write-ahead log is fail-stop: nothing can be promised any more, so
//     Events.Fatal gets one clear last line and the process ends (it must not return).
//   - A disk that fills up is met long before that: see Options.MinFreeSpace and Options.Ballast.
//   - A record that cannot be read (corruption) is reported to Events, left where it is, and passed over by
//     leases, so that the mail behind it goes on.
//
// # Who owns what
//
// The store owns its directory (locked: ErrLocked). Segment.Data is lent until Segment.Release. Small bodies that
// Lease.Next hands out are copied, neighbours into one slab: measured, that costs a fraction of a search
// for each message, which pinning the engine's own memory would take. All others are not copied: Segment.Data is
// Pebble's own memory, pinned. To keep the sum of what slow readers pin bounded by
// configuration, at most Options.MaxPinned generations of the memtable are pinned at a time;
// beyond that a segment is a copy.
//
// # What it must never do
//
// Read the clock (Options.Now is given), know sessions or sockets, or change a record's meaning without a
// new version octet. It runs on ext4 and XFS with journalling; other file systems may
// reorder the manifest's rename and are not supported.
package pebblestore
