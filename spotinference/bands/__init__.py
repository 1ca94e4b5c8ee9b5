"""`spotinference bands`: the price bands in force on a day."""
