"""Classes and splits of the sets that can be prepared."""

# In the order of their labels; the colors, RGB, are those in which results on CamVid are usually shown.
CAMVID_CLASSES = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}
CAMVID_SPLITS = ("train", "val", "test")

NUCLEI_CLASSES = ("nucleus",)
NUCLEI_SPLITS = ("train", "val")

BCCD_CLASSES = ("Platelets", "RBC", "WBC")  # blood platelets, red and white blood cells
BCCD_SPLITS = ("train", "val", "test")
