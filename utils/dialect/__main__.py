import sys

from utils.dialect import main

if sys.argv[1:2] == ["survey"]:  # it brings Dask along, which the dataset does not need
    from utils.dialect.survey import main_survey

    sys.exit(main_survey(sys.argv[2:]))
sys.exit(main())
