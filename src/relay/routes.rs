//! Routes: an outbox table, a topic and an event type, looked up once, with the metric handles.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;

use super::core::Core;
use crate::metrics::{Metrics, Route};
use crate::outbox::Record;

/// Event types of a topic that get a route of their own; beyond, they share one. Metrics name fewer
/// anyhow, so this only bounds memory.
const MAX_TYPES: usize = 1_000;

/// Routes of all topics together that name an event type; beyond, the types of a topic share one. Each has its
/// metric handles, about 2 KB.
const MAX_ROUTES: usize = 20_000;

/// Not UTF-8, so it is no event type; metrics show it as `other`.
const SHARED: &[u8] = b"\xFF";

/// The routes of one session.
pub(super) struct Routes {
    metrics: Arc<Metrics>,
    ids: HashMap<(Arc<str>, Arc<str>), HashMap<Bytes, u32>>,
    routes: Vec<Route>,
    last: Option<(Arc<str>, Arc<str>, Bytes, u32)>,
    touched: Vec<u32>,
}

impl Routes {
    /// None yet.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, ids: HashMap::new(), routes: Vec::new(), last: None, touched: Vec::new() }
    }

    /// The route of a record from `table` (`schema.name`), made known to the core when it is new. None if it
    /// would take one topic more than there may be.
    pub(super) fn of(&mut self, record: &Record, table: &Arc<str>, core: &mut Core) -> Option<u32> {
        if let Some((topic, from, event_type, id)) = &self.last
            && Arc::ptr_eq(topic, &record.topic)
            && Arc::ptr_eq(from, table)
            && *event_type == record.event_type
        {
            return Some(*id);
        }
        let id = self.look_up(record, table, core)?;
        let event_type = Bytes::copy_from_slice(&record.event_type);
        self.last = Some((Arc::clone(&record.topic), Arc::clone(table), event_type, id));
        Some(id)
    }

    fn look_up(&mut self, record: &Record, table: &Arc<str>, core: &mut Core) -> Option<u32> {
        let types = match self.ids.entry((Arc::clone(&record.topic), Arc::clone(table))) {
            Entry::Occupied(types) => types.into_mut(),
            Entry::Vacant(none) if core.has_room_for(&record.topic) => none.insert(HashMap::new()),
            Entry::Vacant(_) => return None,
        };
        let room = types.len() < MAX_TYPES && self.routes.len() < MAX_ROUTES;
        let key: &[u8] =
            if room || types.contains_key(&record.event_type) { &record.event_type } else { SHARED };
        if let Some(id) = types.get(key) {
            return Some(*id);
        }
        let own = Bytes::copy_from_slice(key);
        let event_type = if key == SHARED { Bytes::new() } else { own.clone() };
        let id = core.add_route(&record.topic, table, event_type);
        types.insert(own, id);
        self.routes.push(self.metrics.route(&record.topic, key));
        assert_eq!(id as usize + 1, self.routes.len(), "core and metrics number routes alike");
        Some(id)
    }

    /// The handles of a route, for what shows at once: failures, resends, parking.
    pub(super) fn get(&self, id: u32) -> &Route {
        &self.routes[id as usize]
    }

    /// The handles of a route, which is about to count what is gathered until [`Routes::flush`].
    pub(super) fn touch(&mut self, id: u32) -> &Route {
        if self.touched.last() != Some(&id) {
            self.touched.push(id);
        }
        &self.routes[id as usize]
    }

    /// Shows what was counted.
    pub(super) fn flush(&mut self) {
        self.touched.sort_unstable();
        self.touched.dedup();
        for id in self.touched.drain(..) {
            self.routes[id as usize].flush();
        }
    }
}
