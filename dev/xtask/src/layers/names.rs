//! Which file defines what a file names.

use super::modules::{Crate, Module, Names, attributes, is_for_tests};
use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use syn::visit::{self, Visit};

/// Re-exports of re-exports, at most.
const MAX_STEPS: usize = 16;

/// The pairs of importing and imported file, with one of the names.
pub fn imports(sources: &Crate) -> BTreeMap<(usize, usize), String> {
    let mut imports = BTreeMap::new();
    for (place, module) in sources.modules.iter().enumerate() {
        let mut named = Named::default();
        module.items.iter().for_each(|item| named.visit_item(item));
        for path in named.paths {
            let Some(file) = file_of(sources, place, &path, MAX_STEPS) else { continue };
            if file != module.file {
                imports
                    .entry((module.file, file))
                    .or_insert_with(|| path.last().cloned().unwrap_or_default());
            }
        }
    }
    imports
}

/// The file that defines what a path means in a module; `None` if it is of another crate.
fn file_of(sources: &Crate, from: usize, path: &[String], steps: usize) -> Option<usize> {
    let (first, mut rest) = path.split_first()?;
    let mut at = match first.as_str() {
        "crate" => 0,
        "self" => from,
        "super" => sources.modules.get(from)?.parent?,
        _ => return in_module(sources, from, path, steps),
    };
    while let Some((name, below)) = rest.split_first()
        && name == "super"
    {
        at = sources.modules.get(at)?.parent?;
        rest = below;
    }
    if rest.is_empty() { Some(sources.modules.get(at)?.file) } else { in_module(sources, at, rest, steps) }
}

/// The same for a path that starts with a name of the module.
fn in_module(sources: &Crate, at: usize, path: &[String], steps: usize) -> Option<usize> {
    let steps = steps.checked_sub(1)?;
    let module: &Module = sources.modules.get(at)?;
    let (first, rest) = path.split_first()?;
    if let Some(child) = module.children.get(first) {
        return if rest.is_empty() {
            Some(sources.modules.get(*child)?.file)
        } else {
            in_module(sources, *child, rest, steps)
        };
    }
    if module.defined.contains(first) {
        return Some(module.file);
    }
    if let Some(brought) = module.brought.get(first) {
        if brought == path {
            return None;
        }
        let whole: Names = brought.iter().chain(rest).cloned().collect();
        return file_of(sources, at, &whole, steps);
    }
    module.globs.iter().find_map(|glob| {
        let whole: Names = glob.iter().chain(path).cloned().collect();
        (glob.as_slice() != path).then(|| file_of(sources, at, &whole, steps)).flatten()
    })
}

/// The paths that items name, in macros too.
#[derive(Default)]
struct Named {
    paths: BTreeSet<Names>,
    /// The variables of the functions that are being visited: a name alone may mean one of them.
    variables: Vec<Variables>,
}

/// The variables of a function.
#[derive(Default)]
struct Variables(BTreeSet<String>);

impl<'ast> Visit<'ast> for Variables {
    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        self.0.insert(pattern.ident.to_string());
        visit::visit_pat_ident(self, pattern);
    }
}

impl<'ast> Visit<'ast> for Named {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let mut variables = Variables::default();
        variables.visit_item_fn(function);
        self.among(variables, |this| visit::visit_item_fn(this, function));
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        let mut variables = Variables::default();
        variables.visit_impl_item_fn(function);
        self.among(variables, |this| visit::visit_impl_item_fn(this, function));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    /// `pub(super)` names a module and imports nothing of it.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        visit::visit_macro(self, item);
        self.tokens(item.tokens.clone());
    }
}

impl Named {
    /// Visits a function that has these variables.
    fn among(&mut self, variables: Variables, visit: impl FnOnce(&mut Self)) {
        self.variables.push(variables);
        visit(self);
        self.variables.pop();
    }

    fn add(&mut self, path: Names) {
        let is_variable = match path.as_slice() {
            [name] => self.variables.iter().any(|variables| variables.0.contains(name)),
            _ => false,
        };
        if !is_variable {
            self.paths.insert(path);
        }
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        // Colons since the last name: two lead on to the next.
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.end(&mut path);
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.end(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.end(&mut path);
    }

    fn end(&mut self, path: &mut Names) {
        if !path.is_empty() {
            self.add(std::mem::take(path));
        }
    }
}
