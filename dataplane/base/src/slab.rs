/// A bounded pool of `T`; a key dies with its entry.
#[derive(Debug)]
pub struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    limit: u32,
}

/// Names an entry of a [`Slab`]: its place, and the generation that tells apart those who had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlabKey {
    /// The place in the slab.
    pub index: u32,
    /// How often the place was given out before.
    pub generation: u32,
}

/// Every place of the slab is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabFull;

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    /// A pool of at most `limit` entries; memory is taken as they come.
    pub fn with_limit(limit: u32) -> Self {
        Slab { entries: Vec::new(), free: Vec::new(), limit }
    }

    /// How many entries live.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// True when none lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a place for what `make` returns for its key.
    pub fn insert_with(&mut self, make: impl FnOnce(SlabKey) -> T) -> Result<SlabKey, SlabFull> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if (self.entries.len() as u64) < u64::from(self.limit) => {
                self.entries.push(Entry { generation: 0, value: None });
                (self.entries.len() - 1) as u32
            }
            None => return Err(SlabFull),
        };
        let entry = &mut self.entries[index as usize];
        let key = SlabKey { index, generation: entry.generation };
        entry.value = Some(make(key));
        Ok(key)
    }

    /// Takes a place for `value`.
    pub fn insert(&mut self, value: T) -> Result<SlabKey, SlabFull> {
        self.insert_with(|_| value)
    }

    /// The entry of `key`, when it still lives.
    pub fn get(&self, key: SlabKey) -> Option<&T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation == key.generation { entry.value.as_ref() } else { None }
    }

    /// The entry of `key`, when it still lives.
    pub fn get_mut(&mut self, key: SlabKey) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation == key.generation { entry.value.as_mut() } else { None }
    }

    /// Takes the entry out; its key is dead from here on.
    pub fn remove(&mut self, key: SlabKey) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        if entry.generation != key.generation {
            return None;
        }
        let value = entry.value.take()?;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    /// The living entries in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (SlabKey, &T)> {
        self.entries.iter().enumerate().filter_map(|(index, entry)| {
            let key = SlabKey { index: index as u32, generation: entry.generation };
            entry.value.as_ref().map(|value| (key, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_dies_with_its_entry() {
        let mut slab = Slab::with_limit(1);
        let first = slab.insert("first").expect("there is a place");
        assert_eq!(slab.insert("more"), Err(SlabFull));
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second").expect("the place is free again");
        assert_eq!(first.index, second.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
    }
}
