//! Topic filters by the words of the specification (4.7, 4.8), without regard to speed, and written
//! apart from the broker's own.

/// Whether `filter`, which is not shared, selects `name`.
pub(crate) fn selects(filter: &str, name: &str) -> bool {
    let filter: Vec<&str> = filter.split('/').collect();
    let name: Vec<&str> = name.split('/').collect();
    let wild = filter[0] == "+" || filter[0] == "#";
    let system = name[0].starts_with('$');
    !(wild && system) && levels_select(&filter, &name)
}

fn levels_select(filter: &[&str], name: &[&str]) -> bool {
    match (filter, name) {
        (["#"], _) | ([], []) => true,
        ([wanted, filter @ ..], [level, name @ ..]) => {
            (*wanted == "+" || wanted == level) && levels_select(filter, name)
        }
        _ => false,
    }
}

/// The share name and the filter; `None` if the text is not a topic filter.
pub(crate) fn parse(text: &str) -> Option<(Option<&str>, &str)> {
    let mut parts = text.splitn(3, '/');
    if (parts.next(), text.contains('/')) == (Some("$share"), true) {
        let share =
            parts.next().filter(|share| !share.is_empty() && !share.contains(['+', '#']))?;
        let filter = parts.next()?;
        return is_filter(filter).then_some((Some(share), filter));
    }
    is_filter(text).then_some((None, text))
}

fn is_filter(text: &str) -> bool {
    let levels: Vec<&str> = text.split('/').collect();
    let last = levels.len() - 1;
    let fits = |(at, level): (usize, &&str)| match *level {
        "#" => at == last,
        "+" => true,
        other => !other.contains(['+', '#', '\0']),
    };
    !text.is_empty() && levels.iter().enumerate().all(fits)
}
