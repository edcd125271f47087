//! The modules of a crate, with what each defines and which names it brings in. Tests are left out.

use crate::Result;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use syn::{Attribute, Item, ItemMod, UseTree};

/// A path as it is written: `crate::a::B` is `["crate", "a", "B"]`.
pub type Names = Vec<String>;

/// A crate: its files, and its modules, of which a file may have several. The first module is the root.
#[derive(Default)]
pub struct Crate {
    /// The source files.
    pub files: Vec<PathBuf>,
    /// The modules; what refers to one has its place here.
    pub modules: Vec<Module>,
}

/// A module.
pub struct Module {
    /// The place of its file.
    pub file: usize,
    /// The place of its parent; `None` for the root.
    pub parent: Option<usize>,
    /// The modules in it, by name.
    pub children: BTreeMap<String, usize>,
    /// What it defines.
    pub defined: Vec<String>,
    /// What it brings in, by the name that it has here.
    pub brought: BTreeMap<String, Names>,
    /// The modules of which it brings everything in.
    pub globs: Vec<Names>,
    /// Its items, modules and re-exports left out.
    pub items: Vec<Item>,
}

impl Crate {
    /// Reads a crate from its root file.
    pub fn read(root: &Path) -> Result<Self> {
        let mut sources = Self::default();
        let folder = root.parent().unwrap_or(Path::new("")).to_owned();
        sources.file(root, &folder, None)?;
        Ok(sources)
    }

    /// Reads the file of a module whose children are in `folder`.
    fn file(&mut self, path: &Path, folder: &Path, parent: Option<usize>) -> Result<usize> {
        let parsed = syn::parse_file(&read(path)?)
            .map_err(|error| format!("{} is not Rust that this chore can read: {error}", path.display()))?;
        self.files.push(path.to_owned());
        self.module(self.files.len() - 1, parsed.items, folder, parent)
    }

    fn module(
        &mut self,
        file: usize,
        items: Vec<Item>,
        folder: &Path,
        parent: Option<usize>,
    ) -> Result<usize> {
        let place = self.modules.len();
        let (mut defined, mut brought, mut globs, mut rest, mut modules) =
            (Vec::new(), BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        for item in items {
            if is_for_tests(attributes(&item)) {
                continue;
            }
            match item {
                Item::Mod(module) => modules.push(module),
                Item::Use(item) => bring(&item.tree, Vec::new(), &mut brought, &mut globs),
                item => {
                    defined.extend(name(&item));
                    rest.push(item);
                }
            }
        }
        self.modules.push(Module {
            file,
            parent,
            children: BTreeMap::new(),
            defined,
            brought,
            globs,
            items: rest,
        });
        for module in modules {
            let name = module.ident.to_string();
            let child = self.child(file, module, folder, place)?;
            if let Some(parent) = self.modules.get_mut(place) {
                parent.children.insert(name, child);
            }
        }
        Ok(place)
    }

    fn child(&mut self, file: usize, module: ItemMod, folder: &Path, parent: usize) -> Result<usize> {
        let name = module.ident.to_string();
        let below = folder.join(&name);
        match module.content {
            Some((_, items)) => self.module(file, items, &below, Some(parent)),
            None => {
                let beside = folder.join(format!("{name}.rs"));
                let path = if beside.is_file() { beside } else { below.join("mod.rs") };
                self.file(&path, &below, Some(parent))
            }
        }
    }
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// Whether an item is there under `#[cfg(test)]` or the like only.
pub fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition =
            attribute.path().is_ident("cfg").then(|| attribute.meta.require_list().ok()).flatten();
        condition.is_some_and(|condition| {
            let condition = condition.tokens.to_string();
            condition == "test" || condition.starts_with("any (test") || condition.starts_with("all (test")
        })
    })
}

/// The attributes of an item.
pub fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn name(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

fn bring(tree: &UseTree, path: Names, brought: &mut BTreeMap<String, Names>, globs: &mut Vec<Names>) {
    let longer = |name: &syn::Ident| {
        let mut path = path.clone();
        if name != "self" || path.is_empty() {
            path.push(name.to_string());
        }
        path
    };
    match tree {
        UseTree::Path(inner) => bring(&inner.tree, longer(&inner.ident), brought, globs),
        UseTree::Name(inner) => {
            let path = longer(&inner.ident);
            brought.insert(path.last().cloned().unwrap_or_default(), path);
        }
        UseTree::Rename(inner) => {
            brought.insert(inner.rename.to_string(), longer(&inner.ident));
        }
        UseTree::Glob(_) => globs.push(path),
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| bring(tree, path.clone(), brought, globs))
        }
    }
}
