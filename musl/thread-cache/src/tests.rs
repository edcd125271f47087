use super::*;

#[test]
fn every_size_has_the_smallest_class_that_holds_it() {
    for size in 1..=LARGEST {
        let class = class_of(Layout::from_size_align(size, 1).unwrap()).unwrap();
        assert!(class < CLASSES && size_of_class(class) >= size, "{size}: class {class}");
        assert!(class == 0 || size_of_class(class - 1) < size, "{size}: class {class} is not the smallest");
    }
    for class in 0..CLASSES {
        assert_eq!(size_of_class(class) % ALIGN, 0);
        assert!(size_of_class(class) >= size_of::<Block>() && batch_len(class) >= 2);
    }
    assert_eq!(size_of_class(CLASSES - 1), LARGEST);
    assert_eq!(class_of(Layout::from_size_align(LARGEST + 1, 1).unwrap()), None);
    assert_eq!(class_of(Layout::from_size_align(64, 32).unwrap()), None);
}
